"""Where settings come from: files, then the environment, then the command line; the later one wins."""

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_settings import EnvSettingsSource

from agent.errors import SettingsError
from agent.settings.models import Settings

ETC = Path("/etc/roamd")
_PREFIX = "ROAMD_"
_CREDENTIAL = "mqtt-password"
_SECRET = ("broker", "password")

Key = tuple[str, ...]
Origins = Mapping[Key, str]
"""Where a value came from, by the path of its key: a file's name, or an environment variable's."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Valid settings, and where each that is not a built-in default came from."""

    settings: Settings
    origins: Origins


def load(*, config: Path | None, environ: Mapping[str, str], hostname: str, etc: Path = ETC) -> Loaded:
    """Read, merge and validate the settings.

    With `config` only that file and the environment count, else `roamd.toml` and `conf.d/*.toml` below `etc` do, in the
    order of their names. Raises SettingsError, which tells of everything that is wrong, a line each.
    """
    merged: dict[str, Any] = {}
    origins: dict[Key, str] = {}
    wrong: list[str] = []
    for file in [config] if config is not None else _files(etc):
        table = _read(file)
        if "password" in _table(table, "broker"):
            wrong.append(
                f"{file}: broker.password: a password does not belong into this file;"
                " set broker.password_file, or ROAMD_BROKER__PASSWORD"
            )
        _merge(merged, table, str(file), origins)
    wrong += _unknown_variables(environ)
    _merge(merged, _environment(environ), None, origins)
    if "device_id" not in merged:
        merged["device_id"] = hostname
        origins["device_id",] = "the host name"
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as exc:
        wrong += [_explained(error, origins) for error in exc.errors(include_url=False)]
    if wrong:
        raise SettingsError("\n".join(wrong))
    return Loaded(_resolved(settings, environ, origins), origins)


# Files.


def _files(etc: Path) -> list[Path]:
    main = etc / "roamd.toml"
    return [*([main] if main.exists() else []), *sorted((etc / "conf.d").glob("*.toml"))]


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as exc:
        raise SettingsError(f"cannot read {file}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise SettingsError(f"{file}: not UTF-8 at byte {exc.start}") from exc
    except tomllib.TOMLDecodeError as exc:
        raise SettingsError(f"{file}: not valid TOML: {exc}") from exc


def _table(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    inner = table.get(name)
    return inner if isinstance(inner, Mapping) else {}


def _merge(
    into: dict[str, Any], table: Mapping[str, Any], origin: str | None, origins: dict[Key, str], at: Key = ()
) -> None:
    """Put the table's values over those that are there, key by key. Without an origin, they are the environment's."""
    for name, value in table.items():
        key = (*at, name)
        if isinstance(value, Mapping):
            if not isinstance(into.get(name), dict):
                into[name] = {}
            origins.setdefault(key, origin or _variable(key))
            _merge(into[name], value, origin, origins, key)
        else:
            into[name] = value
            origins[key] = origin or _variable(key)


# The environment.


class _Environment(EnvSettingsSource):
    """pydantic-settings' reading of environment variables, from a mapping that is passed."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(Settings, case_sensitive=False)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): value for name, value in self._environ.items()}


def _environment(environ: Mapping[str, str]) -> Mapping[str, Any]:
    urls = f"{_PREFIX}BROKER__URLS"
    plain = environ.get(urls, "")
    if plain and not plain.lstrip().startswith("["):
        environ = {**environ, urls: f'["{plain}"]'}
    try:
        return _Environment(environ)()
    except ValueError as exc:
        raise SettingsError(f"the environment cannot be read: {exc}") from exc


def _variable(key: Key) -> str:
    return _PREFIX + "__".join(key).upper()


def _unknown_variables(environ: Mapping[str, str]) -> Iterator[str]:
    for variable in sorted(environ):
        if variable.startswith(_PREFIX):
            name = variable.removeprefix(_PREFIX).split("__")[0].lower()
            if name not in Settings.model_fields:
                yield f"{variable}: unknown variable{_nearest(name, Settings, ())}"


# What is wrong.


def _explained(error: Any, origins: Origins) -> str:  # noqa: ANN401  pydantic's ErrorDetails
    key = tuple(str(part) for part in error["loc"])
    where = next((origins[key[:n]] for n in range(len(key), 0, -1) if key[:n] in origins), "built-in default")
    dotted = ".".join(key)
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key {dotted}{_nearest(key[-1], *_model_at(key[:-1]))}"
    why = error["msg"].removeprefix("Value error, ")
    if key == _SECRET or isinstance(error["input"], Mapping | BaseModel):
        return f"{where}: {dotted}: {why}"
    return f"{where}: {dotted} = {error['input']!r:.100}: {why}"


def _model_at(key: Key) -> tuple[type[BaseModel], Key]:
    model: type[BaseModel] = Settings
    for part in key:
        if part in model.model_fields:
            annotation: Any = model.model_fields[part].annotation
            inner = next((one for one in get_args(annotation) if _is_model(one)), annotation)
            model = inner if _is_model(inner) else model
    return model, key


def _is_model(annotation: Any) -> bool:  # noqa: ANN401  a type, or one of typing's forms
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _nearest(name: str, model: type[BaseModel], at: Key) -> str:
    near = difflib.get_close_matches(name, model.model_fields, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {'.'.join((*at, near[0]))}?"
    return f"; known here: {', '.join(sorted(model.model_fields))}"


# What only the whole can tell.


def _resolved(settings: Settings, environ: Mapping[str, str], origins: dict[Key, str]) -> Settings:
    """Put in what stands for something else: the device's name, systemd's directories, the password's file."""
    name = settings.device_id
    broker = settings.broker.model_copy(
        update={
            "client_id": settings.broker.client_id.replace("{device_id}", name),
            "password": _password(settings, environ, origins),
        }
    )
    state = environ.get("STATE_DIRECTORY", "").split(":")[0] or "roamd-state"
    runtime = environ.get("RUNTIME_DIRECTORY", "").split(":")[0] or state
    return settings.model_copy(
        update={
            "topics": settings.topics.model_copy(
                update={"prefix": settings.topics.prefix.replace("{device_id}", name)}
            ),
            "broker": broker,
            "outbox": settings.outbox.model_copy(update={"path": _path(settings.outbox.path, state)}),
            "ingest": settings.ingest.model_copy(update={"socket": _path(settings.ingest.socket, runtime)}),
        }
    )


def _path(path: Path, directory: str) -> Path:
    if path.parts[0] in {"$STATE_DIRECTORY", "$RUNTIME_DIRECTORY"}:
        path = Path(directory, *path.parts[1:])
    return Path(os.path.abspath(path))  # noqa: PTH100  resolve() would follow links


def _password(settings: Settings, environ: Mapping[str, str], origins: dict[Key, str]) -> SecretStr | None:
    broker = settings.broker
    if broker.password is None:
        file = broker.password_file
        if file is None and (folder := environ.get("CREDENTIALS_DIRECTORY")):
            credential = Path(folder, _CREDENTIAL)
            file = credential if credential.exists() else None
        if file is None:
            return None
        password = _secret(file)
        origins[_SECRET] = str(file)
    else:
        password = broker.password
    if not broker.username:
        raise SettingsError(f"{origins[_SECRET]}: there is a password, but no broker.username")
    return password


def _secret(file: Path) -> SecretStr:
    try:
        return SecretStr(file.read_text(encoding="utf-8").rstrip("\r\n"))
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"cannot read broker.password_file {file}: {exc}") from exc

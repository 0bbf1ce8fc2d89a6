"""Where settings come from: files, then the environment, then the command line; the later one wins."""

import difflib
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from agent.errors import SettingsError
from agent.settings.models import Settings

ETC = Path("/etc/roamd")
_PREFIX = "ROAMD_"
_TLS_CREDENTIALS = {"ca_file": "ca.pem", "cert_file": "client.pem", "key_file": "client.key"}
_SECRET = ("broker", "password")
_MOST_SECRET = 65_535  # bytes, MQTT 5 section 1.5.6
_DEEPEST = 3  # streams.NAME.interval
_HOST_NAME = "the host name"

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
        try:
            table = _read(file)
        except SettingsError as exc:
            wrong.append(str(exc))
            continue
        broker = table.get("broker")
        if isinstance(broker, dict) and broker.pop("password", None) is not None:
            wrong.append(
                f"{_shown(file)}: broker.password: a password does not belong into this file;"
                " set broker.password_file, or ROAMD_BROKER__PASSWORD"
            )
        _merge(merged, table, _shown(file), origins)
    _merge(merged, _environment(environ, wrong), None, origins)
    if "device_id" not in merged:
        merged["device_id"] = hostname
        origins["device_id",] = _HOST_NAME
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
    parts = [file for file in _listed(etc / "conf.d") if file.suffix == ".toml" and not file.name.startswith(".")]
    return [main, *parts] if main in _listed(etc) else parts


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise SettingsError(f"cannot read {_shown(folder)}: {exc.strerror}") from exc


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as exc:
        raise SettingsError(f"cannot read {_shown(file)}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise SettingsError(f"{_shown(file)}: not UTF-8 at byte {exc.start}") from exc
    except (ValueError, RecursionError) as exc:  # beside TOMLDecodeError: endless integers, and tables in tables
        raise SettingsError(f"{_shown(file)}: not valid TOML: {exc}") from exc


def _merge(
    into: dict[str, Any], table: Mapping[str, Any], origin: str | None, origins: dict[Key, str], at: Key = ()
) -> None:
    """Put the table's values over those that are there, key by key. Without an origin, they are the environment's."""
    for name, value in table.items():
        key = (*at, name)
        if isinstance(value, Mapping) and len(key) < _DEEPEST:
            if not isinstance(into.get(name), dict):
                into[name] = {}
            origins.setdefault(key, origin or _variable(key))
            _merge(into[name], value, origin, origins, key)
        else:
            into[name] = value
            origins[key] = origin or _variable(key)


# The environment.


class _Variables(Settings, BaseSettings):
    """What pydantic-settings wants to know. Never made: a BaseSettings reads os.environ, whatever it is given."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, env_nested_delimiter="__")


class _Environment(EnvSettingsSource):
    """pydantic-settings' reading of environment variables, from a mapping that is passed."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(_Variables, case_sensitive=False)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): value for name, value in self._environ.items()}


def _environment(environ: Mapping[str, str], wrong: list[str]) -> Mapping[str, Any]:
    """Return what the variables set, and add what is wrong with them to `wrong`."""
    variables: dict[str, str] = {}
    for variable in sorted(name for name in environ if name.startswith(_PREFIX)):
        known = _known_variables(variable)
        if variable not in known:
            near = difflib.get_close_matches(variable.upper(), known, n=1, cutoff=0.8)
            hint = f"did you mean {near[0]}?" if near else "they are named as in ROAMD_BROKER__KEEP_ALIVE"
            wrong.append(f"{_shown(variable)}: unknown variable; {hint}")
        elif not _is_utf8(environ[variable]):
            wrong.append(f"{variable}: not UTF-8")
        else:
            variables[variable] = environ[variable]
    urls = _variable(("broker", "urls"))
    if not variables.get(urls, "[").lstrip().startswith("["):
        variables[urls] = json.dumps([variables[urls]])
    try:
        return _Environment(variables)()
    except (ValueError, RecursionError):  # the only one that is JSON
        wrong.append(f"{urls}: neither a URL nor a JSON list of them")
        return {}


def _is_utf8(text: str) -> bool:
    """Return whether a variable's bytes were UTF-8: os.environ has lone surrogates for those that were not."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _variable(key: Key) -> str:
    return _PREFIX + "__".join(key).upper()


def _known_variables(like: str) -> list[str]:
    """Return all names of variables there are, with the stream's or command's name that `like` has."""
    match like.removeprefix(_PREFIX).split("__"):
        case ["STREAMS" | "COMMANDS", name, _]:
            return [_variable(key) for key in _keys(Settings, (), name)]
    return [_variable(key) for key in _keys(Settings, (), "NAME")]


def _keys(model: type[BaseModel], at: Key, own: str) -> Iterator[Key]:
    """Return the keys of a table and of those in it; `own` stands for the names that users give."""
    for name, field in model.model_fields.items():
        inner = _inner_model(field.annotation) if len(at) + 1 < _DEEPEST else None
        if inner is None:
            yield (*at, name)
        else:
            yield from _keys(inner, (*at, name) if inner is field.annotation else (*at, name, own), own)
    if (named := _named_model(model)) is not None:
        yield from _keys(named, (*at, own), own)


# What is wrong.

_URLS = ("broker", "urls")
_WORDS = {
    "model_type": "must be a table",
    "mapping_type": "must be a table",
    "dict_type": "must be a table",
    "tuple_type": "must be a list",
    "path_type": "must be a path",
    "missing": "is missing",
}


def _explained(error: Any, origins: Origins) -> str:  # noqa: ANN401  pydantic's ErrorDetails
    key = tuple(str(part) for part in error["loc"])
    where = next((origins[key[:n]] for n in range(len(key), 0, -1) if key[:n] in origins), "built-in default")
    dotted = ".".join(map(_shown, key))
    is_no_table = error["type"] in {"model_type", "model_attributes_type"} and _named_model(_model_at(key[:-1])[0])
    if error["type"] == "extra_forbidden" or (is_no_table and key[-1] not in _model_at(key[:-1])[0].model_fields):
        return f"{where}: unknown key {dotted}{_nearest(key[-1], *_model_at(key[:-1]))}"
    why = _WORDS.get(error["type"]) or error["msg"].removeprefix("Value error, ")
    for pydantic in ("Input should", "String should"):
        why = why.replace(pydantic, "must")
    if where == _HOST_NAME:
        why += "; set device_id"
    value = repr(error["input"])
    if key == _SECRET or isinstance(error["input"], Mapping | BaseModel) or (key[:2] == _URLS and "@" in value):
        return f"{where}: {dotted}: {why}"
    return f"{where}: {dotted} = {value:.100}: {why}"


def _shown(name: str | Path) -> str:
    text = str(name)
    return text if text.isprintable() and text else repr(text)


def _model_at(key: Key) -> tuple[type[BaseModel], Key]:
    model: type[BaseModel] = Settings
    for part in key:
        if part in model.model_fields:
            model = _inner_model(model.model_fields[part].annotation) or model
        else:
            model = _named_model(model) or model
    return model, key


def _inner_model(annotation: Any) -> type[BaseModel] | None:  # noqa: ANN401  a type, or one of typing's forms
    """Return the model of a table, or of the tables in a table."""
    for one in (annotation, *get_args(annotation)):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return one
    return None


def _named_model(model: type[BaseModel]) -> type[BaseModel] | None:
    """Return the model of the tables that have names of their own beside a table's keys."""
    return _inner_model(model.__annotations__.get("__pydantic_extra__"))


def _nearest(name: str, model: type[BaseModel], at: Key) -> str:
    near = difflib.get_close_matches(name, model.model_fields, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {'.'.join(map(_shown, (*at, near[0])))}?"
    return f"; known here: {', '.join(sorted(model.model_fields))}"


# What only the whole can tell.


def _resolved(settings: Settings, environ: Mapping[str, str], origins: dict[Key, str]) -> Settings:
    """Put in what stands for something else: the device's name, systemd's directories, the password's file."""
    name = settings.device_id
    broker = settings.broker.model_copy(
        update={
            "client_id": settings.broker.client_id.replace("{device_id}", name),
            "password": _password(settings, environ, origins),
            **_tls_files(settings, environ, origins),
        }
    )
    state = environ.get("STATE_DIRECTORY", "").split(":")[0] or "roamd-state"
    runtime = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    outbox = _path(settings.outbox.path, state=state, runtime=runtime or state)
    socket = _path(settings.ingest.socket, state=state, runtime=runtime or str(outbox.parent))
    return settings.model_copy(
        update={
            "topics": settings.topics.model_copy(
                update={"prefix": settings.topics.prefix.replace("{device_id}", name)}
            ),
            "broker": broker,
            "outbox": settings.outbox.model_copy(update={"path": outbox}),
            "ingest": settings.ingest.model_copy(update={"socket": socket}),
        }
    )


def _path(path: Path, *, state: str, runtime: str) -> Path:
    first, *rest = path.parts
    path = Path({"$STATE_DIRECTORY": state, "$RUNTIME_DIRECTORY": runtime}.get(first, first), *rest)
    return Path(os.path.abspath(path))  # noqa: PTH100  resolve() would follow links


def _password(settings: Settings, environ: Mapping[str, str], origins: dict[Key, str]) -> SecretStr | None:
    broker = settings.broker
    if broker.password is None:
        file = broker.password_file or _credential(environ, "mqtt-password")
        if file is None:
            return None
        password = _secret(file)
        origins[_SECRET] = _shown(file)
    else:
        password = broker.password
    if not broker.username:
        raise SettingsError(f"{origins[_SECRET]}: there is a password, but no broker.username")
    if len(password.get_secret_value().encode()) > _MOST_SECRET:
        raise SettingsError(f"{origins[_SECRET]}: the password is longer than {_MOST_SECRET} bytes")
    return password


def _tls_files(settings: Settings, environ: Mapping[str, str], origins: dict[Key, str]) -> dict[str, Path | None]:
    """Return the files that TLS needs: those of the settings, and systemd's credentials for what is not set."""
    files: dict[str, Path | None] = {}
    for name, credential in _TLS_CREDENTIALS.items():
        file: Path | None = getattr(settings.broker, name)
        if file is None and (file := _credential(environ, credential)) is not None:
            origins["broker", name] = f"the credential {credential}"
        files[name] = None if file is None else Path(os.path.abspath(file))  # noqa: PTH100  as above
    if files["key_file"] is not None and files["cert_file"] is None:
        raise SettingsError(
            f"{origins['broker', 'key_file']}: broker.key_file: there is a key, but no certificate for it;"
            " set broker.cert_file"
        )
    return files


def _credential(environ: Mapping[str, str], name: str) -> Path | None:
    """Return the file of one of systemd's credentials (systemd.exec(5)), if the service was given it."""
    folder = environ.get("CREDENTIALS_DIRECTORY")
    file = Path(folder or "", name)
    return file if folder and file in _listed(file.parent) else None


def _secret(file: Path) -> SecretStr:
    try:
        return SecretStr(file.read_text(encoding="utf-8").rstrip("\r\n"))
    except OSError as exc:
        raise SettingsError(f"cannot read the password in {_shown(file)}: {exc.strerror}") from exc
    except UnicodeDecodeError:  # its text has a byte of the password
        raise SettingsError(f"cannot read the password in {_shown(file)}: not UTF-8") from None
    except ValueError as exc:  # NUL in the path
        raise SettingsError(f"cannot read the password in {_shown(file)}: {exc}") from exc

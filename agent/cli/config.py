"""`roamd config`: the settings in effect."""

import io
import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

from agent.settings import Loaded, load

_PASSWORD = ("broker", "password")


def show(config: Path | None) -> int:
    """Print the settings in effect as TOML that can be read again, with where each came from."""
    loaded = load(config=config, environ=os.environ, hostname=socket.gethostname())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # as TOML has to be, whatever the locale
    for line in _lines(loaded):
        print(line)
    return 0


def _lines(loaded: Loaded) -> Iterator[str]:
    yield from _table(loaded.settings.model_dump(), (), loaded)


def _table(table: Mapping[str, Any], at: tuple[str, ...], loaded: Loaded) -> Iterator[str]:
    for name, value in table.items():
        key = (*at, name)
        origin = f"  # {loaded.origins[key]}" if key in loaded.origins else ""
        if key == _PASSWORD:
            if value is not None:
                yield f"# {name} is set{origin}"
        elif value is not None and not isinstance(value, Mapping):
            yield f"{name} = {_toml(value)}{origin}"
    for name, value in table.items():
        if isinstance(value, Mapping):
            inner = (*at, name)
            if any(not isinstance(leaf, Mapping) for leaf in value.values()):
                yield ""
                yield f"[{'.'.join(_bare(part) for part in inner)}]"
            yield from _table(value, inner, loaded)


def _bare(key: str) -> str:
    return key if key.replace("-", "").replace("_", "").isalnum() else json.dumps(key)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return _toml(value.value)
    if isinstance(value, str | PurePath):
        # TOML's basic strings have JSON's escapes, but for DEL.
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_bare(key)} = {_toml(one)}' for key, one in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return repr(value)

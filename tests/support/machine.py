"""Settings files of a test, and what `load` makes of them."""

from pathlib import Path

import pytest

from agent.errors import SettingsError
from agent.settings import Loaded, Settings, load

DELIVERY = {
    "delivery": "stored", "qos": 1, "retain": False, "priority": 5,
    "batch": 1, "batch_for": 0.0, "on_change": {}, "heartbeat": 60.0,
}  # fmt: skip
"""The defaults of a stream that has no table."""

STREAM = {"options": {}, "enabled": True, "interval": 10.0, "state": False, **DELIVERY}
"""The defaults of a stream, but for its source."""


class Machine:
    """A folder in place of /etc/roamd, and what `load` makes of it."""

    def __init__(self, folder: Path) -> None:
        self.etc = folder / "etc"
        self.file = self.etc / "roamd.toml"

    def write(self, text: str | bytes, *, to: str = "roamd.toml") -> Path:
        file = self.etc / to
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    def load(self, *, config: Path | None = None, hostname: str = "rover", **environ: str) -> Loaded:
        return load(config=config, environ=environ, hostname=hostname, etc=self.etc)

    def settings(self, text: str | bytes = "", **environ: str) -> Settings:
        self.write(text)
        return self.load(**environ).settings

    def wrong(self, text: str | bytes = "", **environ: str) -> list[str]:
        """Return what is wrong, a line each, without the name of the file."""
        self.write(text)
        with pytest.raises(SettingsError) as told:
            self.load(**environ)
        return str(told.value).replace(str(self.file), "FILE").split("\n")

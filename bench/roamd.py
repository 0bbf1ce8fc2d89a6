"""The agent as it is measured: its settings, and what it tells systemd."""

import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from agent.settings.models import StreamTable
from agent.sources import STARTED
from bench.processes import Process, python
from bench.records import DEVICE, STREAM

BATCH = 50
SOCKET_NAME = "roamd.sock"
_BATCH_FOR = 0.2


def has_batches() -> bool:
    """Tell whether streams have the setting `batch` yet."""
    return "batch" in StreamTable.model_fields


def settings_file(folder: Path, port: int, *, delivery: str = "stored", batch: bool = False) -> Path:
    """Write the settings of an agent without sources, and return the file."""
    stream = f'delivery = "{delivery}"\n' + (f"batch = {BATCH}\nbatch_for = {_BATCH_FOR}\n" if batch else "")
    sources = "".join(f"[streams.{name}]\nenabled = false\n" for name in STARTED)
    file = folder / "roamd.toml"
    file.write_text(
        f'device_id = "{DEVICE}"\n[broker]\nurls = ["mqtt://127.0.0.1:{port}"]\n'
        f'[outbox]\npath = "{folder}/outbox.db"\n[health]\ninterval = 0\n[log]\nlevel = "warning"\n'
        f"[streams.{STREAM}]\n{stream}{sources}",
        encoding="utf-8",
    )
    return file


def default_settings_file(folder: Path, port: int) -> Path:
    """Write settings that change nothing but the broker's port and the place of the files."""
    file = folder / "roamd.toml"
    file.write_text(
        f'[broker]\nurls = ["mqtt://127.0.0.1:{port}"]\n[outbox]\npath = "{folder}/outbox.db"\n', encoding="utf-8"
    )
    return file


def socket_path(config: Path) -> Path:
    """Return where the agent with these settings listens: beside the outbox, outside systemd."""
    return config.parent / SOCKET_NAME


def last_row_written(config: Path) -> int:
    """Return the number of the last row that was ever written to the outbox, 0 for none: so many rows at most."""
    with closing(sqlite3.connect(config.parent / "outbox.db")) as database:
        found = database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'").fetchone()
    return int(found[0]) if found else 0


class Notified:
    """What a process tells by sd_notify(3)."""

    def __init__(self, sock: socket.socket, path: Path) -> None:
        self._socket = sock
        self.environment = {"NOTIFY_SOCKET": str(path)}

    def wait(self, *texts: str, within: float = 60.0) -> float:
        """Wait until a message has begun with each of these, and return the monotonic time. Raises TimeoutError."""
        deadline = time.monotonic() + within
        missing = set(texts)
        while missing:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            said = self._socket.recv(4096).decode()
            missing = {text for text in missing if not said.startswith(text)}
        return time.monotonic()


@contextmanager
def notified(folder: Path) -> Iterator[Notified]:
    """Listen as systemd does."""
    path = folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        try:
            yield Notified(sock, path)
        finally:
            path.unlink()


@contextmanager
def running(
    config: Path, *, syncs: Path, sync_delay_us: int = 0, command: list[str] | None = None
) -> Iterator[tuple[Process, Notified]]:
    """Run `roamd run`, or another command, with these settings."""
    folder = config.parent
    argv = [*(command or python("agent", "run")), "--config", str(config)]
    with (
        notified(folder) as told,
        Process(
            "agent", argv, folder=folder, environment=told.environment, syncs=syncs, sync_delay_us=sync_delay_us
        ) as process,
    ):
        yield process, told

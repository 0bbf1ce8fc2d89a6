"""The real agent, as a process of its own."""

import json
import os
import re
import signal
import sys
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.child import Child

ROOT = Path(__file__).resolve().parents[2]
SYSTEMD = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "INVOCATION_ID", "JOURNAL_STREAM", "STATE_DIRECTORY",
           "RUNTIME_DIRECTORY", "CREDENTIALS_DIRECTORY", "LISTEN_FDS", "LISTEN_PID")  # fmt: skip
"""What systemd tells a service: a test that runs inside one must not hand it on."""

Setting = bool | int | float | str | Path | Sequence["Setting"] | Mapping[str, "Setting"]


class AgentProcess:
    """`python -m agent run --config FILE` with these settings and an outbox in `folder`.

    Settings are named as in a TOML file, with dots: `{"broker.urls": [...], "streams.cpu.interval": 0.1}`.
    `environment` is added to an environment without ROAMD_ variables and without systemd's.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Setting],
        *,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = (sys.executable, "-m", "agent", "run"),
    ) -> None:
        self.folder = folder
        self.settings: dict[str, Setting] = {"outbox.path": folder / "outbox.db", **settings}
        self._environment = environment or {}
        self._command = command
        self._child: Child | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._child is not None:
            await self._child.end()

    @property
    def config(self) -> Path:
        return self.folder / "roamd.toml"

    @property
    def socket(self) -> Path:
        """The local socket, which stands beside the outbox."""
        return self.folder / "roamd.sock"

    @property
    def child(self) -> Child:
        assert self._child is not None, "the agent was not started"
        return self._child

    @property
    def lines(self) -> list[str]:
        """What it wrote to standard error since its last start."""
        return self.child.err

    async def start(self) -> None:
        """Write the settings and start it; also again after it ended, with the same folder."""
        assert self._child is None or not self._child.running, "the agent is running"
        self.write_settings()
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("ROAMD_") and k not in SYSTEMD}
        self._child = await Child.spawn(
            (*self._command, "--config", str(self.config)),
            name="agent",
            cwd=ROOT,
            env={**inherited, "PYTHONUNBUFFERED": "1", **self._environment},
        )

    def write_settings(self) -> None:
        """Write `settings` to the file, which a running agent reads again at SIGHUP."""
        self.config.write_text(toml(self.settings), encoding="utf-8")

    def wait_for_line(self, pattern: str, timeout: float = 30.0) -> Coroutine[Any, Any, re.Match[str]]:
        """Wait for a line of standard error in which `pattern` is found; fails at once when the agent has ended."""
        return self.child.line(pattern, lines=self.lines, within=timeout)

    def sigterm(self) -> None:
        self.child.signal(signal.SIGTERM)

    def sighup(self) -> None:
        self.child.signal(signal.SIGHUP)

    async def kill(self) -> None:
        """End it as a power cut would, and wait until it is gone."""
        self.child.signal(signal.SIGKILL)
        await self.wait()

    def wait(self, timeout: float = 30.0) -> Coroutine[Any, Any, int]:
        """Wait for its end; returns the exit code, negative for a signal."""
        return self._wait(timeout)

    async def _wait(self, within: float) -> int:
        code = await self.child.wait(within)
        self.child.show()
        return code


def toml(settings: Mapping[str, Setting]) -> str:
    """Settings by dotted key as TOML; a part of a key that is not bare stands in its quotes already."""
    return "".join(f"{key} = {_value(value)}\n" for key, value in settings.items())


def _value(value: Setting) -> str:
    match value:
        case Path():
            return json.dumps(str(value), ensure_ascii=False)
        case bool() | str():
            return json.dumps(value, ensure_ascii=False)
        case int() | float():
            return repr(value)
        case Mapping():
            return "{" + ", ".join(f"{json.dumps(key)} = {_value(item)}" for key, item in value.items()) + "}"
        case _:
            return "[" + ", ".join(map(_value, value)) + "]"

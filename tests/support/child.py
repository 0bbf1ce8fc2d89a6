import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import pytest

from tests.support.bell import Bell

SBIN = ("/usr/sbin", "/usr/local/sbin", "/sbin")
"""Where Debian keeps daemons, and what is often not on a user's PATH."""
SHOWN_LINES = 40
SHOWN_WIDTH = 200


def program(name: str, *, package: str) -> str:
    """Find a program, or skip the test; with CI=true a missing program fails it."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *SBIN))
    found = shutil.which(name, path=path)
    if found is None:
        reason = f"{name} is not installed: apt install {package}"
        if os.environ.get("CI", "").lower() in {"true", "1"}:
            pytest.fail(reason)
        pytest.skip(reason)
    return found


class ChildEndedError(Exception):
    """The process ended while something was awaited from it."""


class Child(asyncio.SubprocessProtocol):
    """One process of a test: its lines as they come, its end, and never left behind.

    It needs no task: the event loop calls it. Should the test process itself be killed, the kernel ends the child
    (prctl(2), PR_SET_PDEATHSIG), where util-linux' setpriv is installed.
    """

    def __init__(self, name: str, on_line: Callable[[str], None] | None = None) -> None:
        self.name = name
        self.out: list[str] = []
        self.err: list[str] = []
        self.bell = Bell()
        self.pid = 0
        self.returncode: int | None = None
        self.on_error_line: Callable[[str], None] | None = None
        """Gets each line of its standard error from then on."""
        self._on_line = on_line
        self._rest = {1: b"", 2: b""}
        self._piped = True
        self._transport: asyncio.SubprocessTransport | None = None
        self._pidfd: int | None = None

    @classmethod
    async def spawn(
        cls,
        argv: Sequence[str | Path],
        *,
        name: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> Self:
        """Start `argv`; `on_line` gets each line of its standard output."""
        setpriv = shutil.which("setpriv")
        prefix = [setpriv, "--pdeathsig", "KILL"] if setpriv else []
        loop = asyncio.get_running_loop()
        _, child = await loop.subprocess_exec(
            lambda: cls(name, on_line),
            *prefix,
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
        return child

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._transport = transport
        self.pid = transport.get_pid()
        # A pidfd names this process even after its number went to another one.
        with contextlib.suppress(ProcessLookupError):
            self._pidfd = os.pidfd_open(self.pid)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        *lines, self._rest[fd] = (self._rest[fd] + data).split(b"\n")
        self._take(fd, lines)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002
        if self._rest.get(fd):
            last, self._rest[fd] = self._rest[fd], b""
            self._take(fd, [last])

    def _take(self, fd: int, lines: list[bytes]) -> None:
        for raw in lines:
            line = raw.decode(errors="replace")
            (self.out if fd == 1 else self.err).append(line)
            if fd == 1 and self._on_line is not None:
                self._on_line(line)
            if fd != 1 and self.on_error_line is not None:
                self.on_error_line(line)
        self.bell.ring()

    def process_exited(self) -> None:
        assert self._transport is not None
        self.returncode = self._transport.get_returncode()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        self.bell.ring()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        assert self._transport is not None
        self._transport.close()
        self._piped = False
        self.bell.ring()

    @property
    def running(self) -> bool:
        return self.returncode is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this very process; raises `ChildEndedError` when it has ended."""
        if self._pidfd is None:
            raise ChildEndedError(self.story())
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError as exc:
            raise ChildEndedError(self.story()) from exc

    async def wait(self, within: float = 30.0) -> int:
        """Wait for its end and for its last line; returns the exit code, negative for a signal."""
        await self.bell.until(lambda: not self.running, within=within, story=lambda: f"{self.name} did not end")
        try:
            await self.bell.until(lambda: not self._piped, within=2.0, story=self.story)
        except TimeoutError:
            # A grandchild still holds the pipes.
            assert self._transport is not None
            self._transport.close()
            await self.bell.until(lambda: not self._piped, within=2.0, story=self.story)
        assert self.returncode is not None
        return self.returncode

    async def line(self, pattern: str, *, lines: list[str], within: float) -> re.Match[str]:
        """The first of `lines` (`out` or `err`) in which `pattern` is found, waiting for it to come."""
        regex, seen = re.compile(pattern), 0

        def found() -> re.Match[str] | None:
            nonlocal seen
            while seen < len(lines):
                match = regex.search(lines[seen])
                seen += 1
                if match:
                    return match
            if not self._piped:
                raise ChildEndedError(f"no line {pattern!r}: {self.story()}")
            return None

        match = await self.bell.until(found, within=within, story=lambda: f"no line {pattern!r}: {self.story()}")
        assert match is not None
        return match

    async def end(self) -> None:
        """End it whatever it does, and show its log, which pytest prints where the test failed."""
        with contextlib.suppress(ChildEndedError):
            self.signal(signal.SIGKILL)
        await self.wait()
        self.show()

    def show(self) -> None:
        sys.stdout.write(f"--- {self.story()}\n")

    def story(self) -> str:
        state = "is running" if self.running else f"ended with {self.returncode}"
        lines = [line[:SHOWN_WIDTH] for line in (*self.out[-SHOWN_LINES:], *self.err[-SHOWN_LINES:])]
        return "\n".join((f"{self.name} (pid {self.pid}) {state}; its last lines:", *lines))

"""A real mosquitto on 127.0.0.1."""

import asyncio
import contextlib
import os
import re
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.child import Child, ChildEndedError, program
from tests.support.codec import encode
from tests.support.packets import Connect, Disconnect
from tests.support.ports import free_port

PACKAGE = "mosquitto mosquitto-clients"
ATTEMPTS = 5


class Mosquitto:
    """A broker with a persistence file, which a test may kill, freeze and start again on the same port.

    `extra` are lines for its configuration; those that belong to a listener belong to its only one.
    """

    def __init__(self, folder: Path | None = None, *, extra: Sequence[str] = ()) -> None:
        self._extra = extra
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="mosquitto-")
        self.folder = folder or Path(self._temporary.name if self._temporary else "")
        self.port = 0
        self._child: Child | None = None

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._leave()

    async def _leave(self) -> None:
        if self._child is not None:
            await self._child.end()
        if self._temporary is not None:
            self._temporary.cleanup()

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def log(self) -> list[str]:
        """The lines of its log since its last start."""
        return self._child.err if self._child else []

    @property
    def database(self) -> Path:
        return self.folder / "mosquitto.db"

    def _running(self) -> Child:
        if self._child is None or not self._child.running:
            raise ChildEndedError(self._child.story() if self._child else "mosquitto was not started")
        return self._child

    async def start(self) -> None:
        """Start it on a free port, and return once it has answered a CONNECT."""
        for left in reversed(range(ATTEMPTS)):
            self.port = free_port()
            try:
                await self._launch()
            except ChildEndedError as exc:
                if not left or "Address already in use" not in str(exc):
                    raise
            else:
                return

    async def restart(self) -> None:
        """Start it on the same port: with all its sessions after `stop()`, with what `save()` wrote after `kill()`."""
        if self._child is not None and self._child.running:
            await self.stop()
        await self._launch()

    async def _launch(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "mosquitto.conf"
        lines = (
            f"listener {self.port} 127.0.0.1",
            "allow_anonymous true",
            "set_tcp_nodelay true",
            "persistence true",
            f"persistence_location {self.folder}/",
            "max_queued_messages 0",
            "max_inflight_messages 1000",
            "sys_interval 0",
            "log_dest stderr",
            # Started by root it would become the user `mosquitto`, who may not write here.
            *(["user root"] if os.geteuid() == 0 else []),
            *self._extra,
        )
        config.write_text("\n".join((*lines, "")), encoding="utf-8")
        argv = (program("mosquitto", package=PACKAGE), "-c", config)
        self._child = await Child.spawn(argv, name=f"mosquitto on port {self.port}", cwd=self.folder)
        await self._child.line("mosquitto version .* running", lines=self._child.err, within=30)
        await self._greet()

    async def _greet(self) -> None:
        """Wait for an answer to a CONNECT: mosquitto's one thread has then done all that came before it."""
        async with asyncio.timeout(30):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(encode(Connect(client_id="", clean_start=True)))
                # A TLS listener hangs up instead, which says as much.
                with contextlib.suppress(ConnectionError):
                    await reader.read(1)
                writer.write(encode(Disconnect()))
            finally:
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()

    async def save(self) -> None:
        """Have it write its persistence file, which is what `kill()` and `restart()` then leave of its sessions."""
        child = self._running()
        saves = sum("Saving in-memory database" in line for line in child.err)
        child.signal(signal.SIGUSR1)
        await child.bell.until(
            lambda: sum("Saving in-memory database" in line for line in child.err) > saves or not child.running,
            within=30,
            story=child.story,
        )
        await self._greet()
        if not self.database.exists():
            raise FileNotFoundError(f"mosquitto did not write {self.database}: {child.story()}")

    async def kill(self) -> None:
        """End it as a power cut would: nothing is written, no connection is closed in order."""
        await self._end_with(signal.SIGKILL)

    async def stop(self) -> None:
        """End it in order: it writes its persistence file first."""
        await self._end_with(signal.SIGTERM)

    async def _end_with(self, number: signal.Signals) -> None:
        child = self._running()
        child.signal(number)
        if number is not signal.SIGKILL:
            child.signal(signal.SIGCONT)
        await child.wait()
        child.show()

    def freeze(self) -> None:
        """Stop it in its tracks: the kernel still takes connections and bytes, nobody answers."""
        self._running().signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._running().signal(signal.SIGCONT)

    def matching(self, pattern: str) -> list[str]:
        """The lines of its log in which `pattern` is found."""
        return [line for line in self.log if re.search(pattern, line)]

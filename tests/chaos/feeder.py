"""A local program that hands in records, and goes on where the agent's end interrupted it."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class Portion:
    """Records to be handed in together: (stream, size in bytes) each, and how long to wait afterwards."""

    records: tuple[tuple[str, int], ...]
    pause: float


class Feeder:
    """One connection to the agent's socket.

    It reads to the last answer, also after writing has failed: what the agent answered before its end counts.
    (asyncio's streams throw away what is unread when a write fails.)
    """

    def __init__(self, path: Path, ledger: Ledger) -> None:
        self._path = path
        self._ledger = ledger
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Note each answer until the block ends and the agent has closed. Raises OSError where nobody listens."""
        self._socket.setblocking(False)  # noqa: FBT003  socket's own
        with self._socket:
            await asyncio.get_running_loop().sock_connect(self._socket, str(self._path))
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen())
                yield
                self._close_my_side()

    async def hand(self, records: Iterable[tuple[str, int]]) -> bool:
        """Write these records; False where the agent has ended."""
        lines = []
        for stream, size in records:
            record = self._ledger.hand(stream, size=size, at=time.monotonic())
            _, event, name = stream.rpartition("event/")
            fields = {"n": record.number, "filling": record.filling}
            lines.append(
                json.dumps({"event" if event else "stream": name, "fields": fields, "ref": record.number}) + "\n"
            )
        try:
            await asyncio.get_running_loop().sock_sendall(self._socket, "".join(lines).encode())
        except OSError:
            return False
        return True

    def _close_my_side(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    async def _listen(self) -> None:
        loop, rest = asyncio.get_running_loop(), b""
        while True:
            try:
                data = await loop.sock_recv(self._socket, 256 * 1024)
            except OSError:
                return
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._ledger.note(json.loads(line), at=time.monotonic())


async def feed(path: Path, ledger: Ledger, portions: Iterable[Portion], *, up: asyncio.Event) -> None:
    """Hand in all portions in their order, over as many lives of the agent as that takes; `up` tells when it lives."""
    left = list(portions)
    while left:
        await up.wait()
        feeder = Feeder(path, ledger)
        try:
            async with feeder.connected():
                while left:
                    portion = left.pop(0)
                    if not await feeder.hand(portion.records):
                        break
                    await asyncio.sleep(portion.pause)
        except OSError:
            # It has ended, and `up` will say so.
            await asyncio.sleep(0.01)

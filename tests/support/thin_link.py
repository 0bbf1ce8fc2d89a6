"""A proxy before a broker that lets so many bytes a second through towards it, as a cellular uplink does."""

import asyncio
import contextlib
import socket
from types import TracebackType
from typing import Self

_CHUNK = 1024


class ThinLink:
    """Listens on 127.0.0.1 at `port`; what goes back to the client is not slowed down."""

    def __init__(self, to_port: int, *, bytes_per_second: int) -> None:
        self.port = 0
        self.connections = 0
        self._to_port = to_port
        self._bytes_per_second = bytes_per_second
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        # Loopback's segments of 64 KiB would not fit into the buffer at all.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1000)
        sock.bind(("127.0.0.1", 0))
        self.port = sock.getsockname()[1]
        self._server = await asyncio.start_server(self._connected, sock=sock, limit=_CHUNK)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            back, forth = await asyncio.open_connection("127.0.0.1", self._to_port)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_copy(back, writer))
                    await self._trickle(reader, forth)
                    forth.write_eof()
            finally:
                await _close(forth)
        except (ExceptionGroup, ConnectionError):
            pass  # one side is gone, so the other one goes
        finally:
            await _close(writer)
            self._tasks.discard(task)

    async def _trickle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        free_at = loop.time()
        while chunk := await reader.read(_CHUNK):
            free_at = max(free_at, loop.time()) + len(chunk) / self._bytes_per_second
            await asyncio.sleep(free_at - loop.time())
            writer.write(chunk)
            await writer.drain()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65_536):
        writer.write(chunk)
        await writer.drain()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()

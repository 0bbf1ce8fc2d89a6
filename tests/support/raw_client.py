"""A client that does only what it is told, also what no client may do."""

import asyncio
import contextlib
from types import TracebackType
from typing import Self, TypeVar

from tests.support.codec import Stream, encode
from tests.support.packets import Connack, Connect, Packet, Pingreq, Pingresp
from tests.support.wire import MQTT_5, Properties

P = TypeVar("P", bound=Packet)
PATIENCE = 10.0


class RawClient:
    """One TCP connection to 127.0.0.1, which speaks this protocol level; it answers nothing by itself."""

    def __init__(self, port: int, *, level: int = MQTT_5) -> None:
        self._port = port
        self._level = level
        self._stream = Stream(level)
        self._received: list[Packet] = []
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def connect(self, packet: Connect | None = None) -> Connack:
        """Send CONNECT (client identifier `robot`, a session that stays), and return the CONNACK."""
        stays: Properties = {"session_expiry_interval": 3600} if self._level == MQTT_5 else {}
        self.send(packet or Connect(client_id="robot", properties=stays))
        return await self.receive(Connack)

    def send(self, *packets: Packet) -> None:
        """Send all in one write."""
        self.send_raw(b"".join(encode(packet, self._level) for packet in packets))

    def send_raw(self, data: bytes) -> None:
        self._writer.write(data)

    async def drain(self) -> None:
        """Wait until the peer took nearly all that was sent."""
        await self._writer.drain()

    async def receive(self, kind: type[P]) -> P:
        """Return the next packet, which must be of this kind."""
        async with asyncio.timeout(PATIENCE):
            while not self._received:
                data = await self._reader.read(65_536)
                if not data:
                    raise EOFError(f"{kind.__name__} wanted, the peer closed")
                self._received += [packet for packet, _ in self._stream.feed(data)]
        packet = self._received.pop(0)
        assert isinstance(packet, kind), f"{kind.__name__} wanted, got {packet}"
        return packet

    async def ping(self) -> None:
        """Return once the peer has read all that was sent before, and answered all that it answers at once."""
        self.send(Pingreq())
        await self.receive(Pingresp)

    async def closed(self) -> None:
        """Wait for the peer's end of file; raises `ConnectionResetError` where it was a reset."""
        async with asyncio.timeout(PATIENCE):
            data = await self._reader.read(65_536)
            assert not data, f"nothing more was expected, got {data!r}"

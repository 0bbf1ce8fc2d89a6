"""What a connection's transport is told: gmqtt's protocol, with its traps closed."""

import typing
from collections.abc import Callable

from gmqtt.mqtt.package import Package
from gmqtt.mqtt.protocol import MQTTProtocol
from gmqtt.mqtt.utils import ConnectionState

from agent.errors import LinkDownError
from agent.link import handshake
from agent.link.inbox import Inbox


class Ears(typing.Protocol):
    """Whom the protocol tells: the connection's handler."""

    state: ConnectionState
    choked: bool
    at_eof: bool
    cleared: Callable[[], None]
    id_generator: object
    inbound: Inbox

    def down(self, why: LinkDownError) -> None: ...  # noqa: D102


class _Nobody:
    """Receives what comes before the connection is taken on: nothing, or its end, when that was cancelled."""

    def put_package(self, package: Package) -> None:
        pass


class Protocol(MQTTProtocol):  # type: ignore[misc] # gmqtt has no types
    """The connection's protocol: gmqtt's, telling its handler of a choked transport and of why it ended."""

    def __init__(self, handler: Ears) -> None:
        super().__init__(connection_state=handler.state, id_generator=handler.id_generator)
        self._mqtt_handler = handler
        self.set_connection(_Nobody())

    async def read(self, n: int = -1) -> bytes:
        """Return what has come, once there is room for it; meanwhile TCP has the server wait."""
        await self._mqtt_handler.inbound.room.wait()
        return bytes(await super().read(n))

    def pause_writing(self) -> None:
        """Note that the transport's buffer is full."""
        super().pause_writing()
        self._mqtt_handler.choked = True

    def resume_writing(self) -> None:
        """Note that the transport's buffer has drained."""
        super().resume_writing()
        self._mqtt_handler.choked = False
        self._mqtt_handler.cleared()

    def eof_received(self) -> bool:
        """Note that the other side has closed."""
        self._mqtt_handler.at_eof = True
        return bool(super().eof_received())

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the reason, which gmqtt only logs."""
        if exc is not None:
            self._mqtt_handler.down(handshake.lost(exc))
        super().connection_lost(exc)
        if self.closed.done():
            self.closed.exception()  # nobody else asks, and asyncio would tell of it when the process ends

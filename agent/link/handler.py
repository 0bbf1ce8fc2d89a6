"""What a connection does with the packets it receives: gmqtt's handler, with its traps closed.

Each override is named in docs/decisions/0003, and a contract test holds gmqtt to the private names that are used.
"""

import asyncio
import fcntl
import itertools
import logging
import struct
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gmqtt.mqtt.connection import MQTTConnection
from gmqtt.mqtt.handler import MqttPackageHandler
from gmqtt.mqtt.package import Package
from gmqtt.mqtt.utils import ConnectionState

from agent import clock, reasons
from agent.errors import Cause, LinkDownError
from agent.link.inbox import Inbox
from agent.link.outstanding import Outstanding
from agent.link.packets import received
from agent.link.progress import RoundTrip
from agent.link.protocol import Protocol
from agent.link.states import Answered, Event, Proven
from agent.model import Released

log = logging.getLogger(__name__)
logging.getLogger("gmqtt").setLevel(logging.ERROR)  # it tells of each lost connection with a traceback

OWN_PACKET_IDS = range(60_001, 65_536)
"""Packet identifiers of what a session sends for itself; those below belong to the outbox's rows."""

_PUBACK = 0x40
_PUBREC = 0x50
_PUBCOMP = 0x70

Connack = tuple[bool, int, dict[str, list[Any]]]


def _acknowledgement(data: bytes) -> tuple[int, int]:
    """Return the packet identifier and the reason code, which may be left out (section 3.4.2)."""
    return int.from_bytes(data[:2], "big"), data[2] if len(data) > 2 else 0  # noqa: PLR2004


class _OwnIds:
    """Identifiers for the session's own packets; gmqtt asks for SUBSCRIBE's.

    One source for all connections: a `status` that was lost with its connection is not sent again, because the next one
    replaces it, but its identifier is still in use in the session.
    """

    def __init__(self) -> None:
        self._ids = itertools.cycle(OWN_PACKET_IDS)

    def next_id(self) -> int:
        return next(self._ids)

    def free_id(self, id: int) -> None:  # noqa: A002  gmqtt's name
        pass


_own_ids = _OwnIds()


async def _nothing(*_args: object, **_kwargs: object) -> None:
    pass


class Handler(MqttPackageHandler):  # type: ignore[misc] # gmqtt has no types
    """Receives one connection's packets. `ended` is done once it is over; its result is the reason."""

    def __init__(
        self,
        state: ConnectionState,
        round_trip: RoundTrip | None = None,
        tell: Callable[[Event], None] = lambda _event: None,
    ) -> None:
        super().__init__(
            connack_event=asyncio.Event(),
            connection_lost_event=asyncio.Event(),
            connection_state=state,
            reconnect_callback=_nothing,
            disconnect_callback=_nothing,
            resend_qos_callback=_nothing,
            clear_qos_callback=lambda: None,
            connect_properties={},
            subscriptions_getter=list,
            remove_message_callback=lambda _mid: None,
            store_message_callback=lambda _mid, _packet: None,
            send_command_with_mid_callback=self._send_with_packet_id,
            optimistic_acknowledgement=False,
        )
        loop = asyncio.get_running_loop()
        self.id_generator = _own_ids
        self.state = state
        self.ended: asyncio.Future[LinkDownError] = loop.create_future()
        self.connack: asyncio.Future[Connack] = loop.create_future()
        self.inbound = Inbox()
        self.acknowledged: Callable[[int, int], bool] = lambda _packet_id, _code: False
        self.completed: Callable[[int], bool] = lambda _packet_id: False
        self.received: Callable[[int, int], None] = lambda _packet_id, _code: None
        self.cleared: Callable[[], None] = lambda: None
        self.choked = False
        self.last_in = clock.monotonic()
        self.proven = False
        self.tell = tell
        self.is_muted = False
        """Whether DISCONNECT was sent, after which nothing may follow (section 3.14.4)."""
        self.is_probed = False
        """Whether the next packet is an answer that somebody waits for, whatever it is."""
        self.outstanding = Outstanding(round_trip, self.last_in)
        self.at_eof = False
        self._own: dict[int, asyncio.Future[int]] = {}
        self._subacks: dict[int, asyncio.Future[tuple[int, ...]]] = {}
        self._transport: asyncio.Transport | None = None
        self._wire: asyncio.Transport | None = None
        self._reading: asyncio.Task[None] | None = None
        self.on_message = self._received_at_most_once

    def adopt(
        self,
        connection: MQTTConnection,
        transport: asyncio.Transport,
        protocol: Protocol,
        *,
        wire: asyncio.Transport,
    ) -> None:
        """Take the connection on, and stop gmqtt's own keep alive: its close() waits for a buffer that never drains.

        `wire` is the TCP connection under the transport; without TLS it is the transport itself.
        """
        connection._keep_connection_callback.cancel()  # noqa: SLF001
        self._transport = transport
        self._wire = wire
        self._reading = protocol._read_loop_future  # noqa: SLF001
        self._reading.add_done_callback(self._reading_ended)

    async def bury(self) -> None:
        """Abort the connection, whatever its state, and wait until nothing of it is left."""
        self.down(LinkDownError("closed by this side", cause=Cause.OURS))
        if self._wire is not None:
            self._wire.abort()
        if self._reading is not None:
            await asyncio.wait([self._reading])
        if self._transport is not None and self._transport is not self._wire:
            # Only a second close() lets asyncio forget the 256 KiB of a TLS connection before garbage is collected.
            self._transport.abort()
            self._transport.close()

    def hang_up(self) -> None:
        """End the connection after what was written, without a DISCONNECT; what still comes is read."""
        if self._transport is None:
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:  # TLS: its close_notify takes what was written along
            self._transport.close()

    def down(self, why: LinkDownError) -> None:
        """Note that the connection is over; only the first reason counts."""
        if self.ended.done():
            return
        self.ended.set_result(why)
        waiters: list[asyncio.Future[Any]] = [
            self.connack,
            *self._own.values(),
            *self.outstanding.turns(),
            *self._subacks.values(),
        ]
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(why)
                waiter.exception()  # whoever waited may be gone

    @property
    def is_over(self) -> bool:
        """Whether nothing can be sent any more."""
        is_closing = self._transport is None or self._transport.is_closing()
        return is_closing or self.is_muted or self.ended.done()

    # What is outstanding.

    def ping(self, now: float) -> None:
        """Send PINGREQ."""
        self.outstanding.pinged(now)
        self._connection._send_ping_request()  # noqa: SLF001

    def unsent(self) -> int:
        """Return how many bytes this machine holds that the server's has not received (TIOCOUTQ, tcp(7))."""
        if self._transport is None or self._wire is None or self.ended.done():
            return 0
        with suppress(OSError):
            sock = self._wire.get_extra_info("socket")
            queued = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, struct.pack("i", 0))
            buffered = sum(one.get_write_buffer_size() for one in {self._transport, self._wire})
            return buffered + int(struct.unpack("i", queued)[0])
        return 0

    def own_packet(self) -> tuple[int, asyncio.Future[int]]:
        """Return a packet identifier of the session's own, and the future of its reason code."""
        while (packet_id := self.id_generator.next_id()) in self._own:
            pass
        answer = self._own[packet_id] = asyncio.get_running_loop().create_future()
        return packet_id, answer

    @property
    def own(self) -> int:
        """How many of the session's own packets have no answer yet, or wait to be sent."""
        return len(self._own) + self.outstanding.waiting

    async def suback(self, packet_id: int) -> tuple[int, ...]:
        """Wait for the reason codes of the SUBSCRIBE with this identifier."""
        answer: asyncio.Future[tuple[int, ...]] = asyncio.get_running_loop().create_future()
        self._subacks[packet_id] = answer
        return await answer

    def send_puback(self, packet_id: int) -> None:
        """Acknowledge what was received at QoS 1."""
        self._send_puback(packet_id)

    def send_pubrec(self, packet_id: int) -> None:
        """Take over what was received at QoS 2; PUBREL follows."""
        self._send_pubrec(packet_id)

    def send_pubcomp(self, packet_id: int) -> None:
        """End an exchange at QoS 2."""
        self._send_pubcomp(packet_id, 0)  # its middle argument is a DUP flag, which PUBCOMP has not

    def _send_with_packet_id(self, cmd: int, mid: int, dup: bool, reason_code: int = 0) -> None:  # noqa: FBT001  gmqtt's
        self._connection.send_command_with_mid(cmd, mid, dup, reason_code=reason_code)

    # What is received.

    def __call__(self, package: Package) -> None:
        """Take one packet. What cannot be parsed ends the connection (MQTT 5 section 4.13)."""
        self.last_in = clock.monotonic()
        if self.is_probed:
            self.is_probed = False
            self.tell(Answered())
        try:
            if package.cmd == _PUBACK:
                self._answered(package.data)
            elif package.cmd == _PUBCOMP:
                self._completed(package.data)
            elif package.cmd == _PUBREC:
                self._half_answered(package.data)
            else:
                self._handle_packet(package.cmd, package.data)
        except (struct.error, ValueError, IndexError, KeyError, TypeError) as exc:
            kind = package.cmd >> 4
            self.down(LinkDownError(f"malformed packet of type {kind} from the broker: {exc}", cause=Cause.MALFORMED))

    def _answered(self, data: bytes) -> None:
        packet_id, reason_code = _acknowledgement(data)
        self.outstanding.heard(packet_id, self.last_in)
        answer = self._own.pop(packet_id, None)
        if answer is None:
            if self.acknowledged(packet_id, reason_code):
                self._count_answer()
            return
        self._count_answer()
        if not answer.done():
            answer.set_result(reason_code)
        self.cleared()

    def _half_answered(self, data: bytes) -> None:
        packet_id, reason_code = _acknowledgement(data)
        if reason_code >= reasons.GRANTED_BELOW:
            self._answered(data)
        else:
            self.outstanding.progressed(self.last_in)
            self.outstanding.heard(packet_id, self.last_in)
            self.received(packet_id, reason_code)

    def _completed(self, data: bytes) -> None:
        packet_id, _ = _acknowledgement(data)
        if self.completed(packet_id):
            self._count_answer()

    def _count_answer(self) -> None:
        self.outstanding.count_answer(self.last_in)
        if not self.proven:
            self.proven = True
            self.tell(Proven())

    def _handle_connack_packet(self, _cmd: int, packet: bytes) -> None:
        flags, code = struct.unpack("!BB", packet[:2])
        properties, _ = self._parse_properties(packet[2:]) if len(packet) > 2 else ({}, b"")  # noqa: PLR2004
        if properties is None:
            raise ValueError("properties of CONNACK")
        if not self.connack.done():
            self.connack.set_result((bool(flags & 1), code, properties))

    def _handle_disconnect_packet(self, _cmd: int, packet: bytes) -> None:
        if packet:
            properties, _ = self._parse_properties(packet[1:]) if len(packet) > 1 else ({}, b"")
            self.down(
                LinkDownError(
                    f"the broker disconnected: {reasons.describe(packet[0])}",
                    cause=Cause.DISCONNECTED,
                    reason_code=packet[0],
                    reference=(properties or {}).get("server_reference", [""])[0],
                )
            )
        else:
            self.down(LinkDownError("the broker closed the connection", cause=Cause.CLOSED))

    def _handle_pingresp_packet(self, _cmd: int, _packet: bytes) -> None:
        self.outstanding.ponged(self.last_in)

    def _handle_suback_packet(self, _cmd: int, packet: bytes) -> None:
        packet_id = int.from_bytes(packet[:2], "big")
        properties, codes = self._parse_properties(packet[2:])
        if properties is None:
            raise ValueError("properties of SUBACK")
        answer = self._subacks.pop(packet_id, None)
        if answer is not None and not answer.done():
            answer.set_result(tuple(codes))

    def _received_at_most_once(self, topic: str, payload: bytes, qos: int, properties: dict[str, Any]) -> None:
        self._received(topic, payload, qos, properties, None)

    def _handle_qos_1_publish_packet(
        self, mid: int, packet: bytes, print_topic: str, properties: dict[str, Any]
    ) -> None:
        self._received(print_topic, packet, 1, properties, mid)

    def _handle_qos_2_publish_packet(
        self, mid: int, packet: bytes, print_topic: str, properties: dict[str, Any]
    ) -> None:
        self._received(print_topic, packet, 2, properties, mid)

    def _handle_pubrel_packet(self, _cmd: int, packet: bytes) -> None:
        packet_id, _ = _acknowledgement(packet)
        self.inbound.offer(Released(packet_id=packet_id))

    def _received(
        self, topic: str, payload: bytes, qos: int, properties: dict[str, Any], packet_id: int | None
    ) -> None:
        self.inbound.offer(received(topic, payload, qos, properties, packet_id))

    def _reading_ended(self, reading: asyncio.Task[None]) -> None:
        if not reading.cancelled() and (exc := reading.exception()) is not None:
            self.down(LinkDownError(f"cannot read from the broker: {exc}", cause=Cause.MALFORMED))
        if self.at_eof:  # with TLS the transport tells of it only later
            self.down(LinkDownError("the broker closed the connection", cause=Cause.CLOSED))
        self.down(LinkDownError("the broker sent what is no packet", cause=Cause.MALFORMED))
        if self._wire is not None:
            self._wire.abort()

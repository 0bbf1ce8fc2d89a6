"""One connection to a broker, from CONNACK to its end: gmqtt tamed.

With `opening`, `handler`, `protocol` and `packets` it is the only door to gmqtt, which is codec and transport here
(docs/decisions/0003): its Client, and with it its storage, replay and reconnecting, is not used. A session is used
once, and ends once: `ended` then holds the reason.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import gmqtt
from gmqtt.mqtt.connection import MQTTConnection

from agent import clock
from agent.errors import Cause, LinkDownError
from agent.link import packets
from agent.link.handler import Handler
from agent.link.progress import RoundTrip
from agent.link.tls import Tls
from agent.model import Inbound, Limits, Message, Released, Server, Version

log = logging.getLogger(__name__)

_CHECK_EVERY = 1.0
_SOME_BYTES = 4096
_PING_AFTER = 0.75  # of the keep alive, so that a late timer does not exceed it
_EXACTLY_ONCE = 2
_NORMAL = 0x00
_WITH_WILL = 0x04
_NOT_FOUND = 0x92
_TOO_LARGE = 0x95


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The two ends of a connection: this side's address, and the server with its address."""

    server: Server
    source: str
    peer: str


class Session:
    """An open connection. `limits` is what CONNACK said; `inbound` what was received, in order."""

    def __init__(
        self,
        connection: MQTTConnection,
        handler: Handler,
        limits: Limits,
        *,
        version: Version,
        route: Route,
        round_trip: RoundTrip,
        tls: Tls | None,
    ) -> None:
        self.limits = limits
        self.server, self.source, self.peer = route.server, route.source, route.peer
        self.inbound: asyncio.Queue[Inbound | Released] = handler.inbound
        self._connection = connection
        self._handler = handler
        self._round_trip = round_trip
        self._version = version
        self._packets = packets.encoder(version)
        self._keep_alive = limits.keep_alive
        self._last_out = clock.monotonic()
        self._tls = tls

    @property
    def is_proven(self) -> bool:
        """Whether the server has acknowledged a PUBLISH of this session."""
        return self._handler.proven

    @property
    def ended(self) -> asyncio.Future[LinkDownError]:
        """Done when the connection is over; its result is the reason."""
        return self._handler.ended

    # What delivery needs (agent.deliver.Link).

    @property
    def is_clear(self) -> bool:
        """Whether the transport takes more without piling it up in memory."""
        return not (self._handler.choked or self._handler.is_over)

    @property
    def own(self) -> int:
        """How many packets that the session sends for itself have no answer yet, or wait to be sent."""
        return self._handler.own

    def listen(
        self,
        *,
        acknowledged: Callable[[int, int], bool],
        received: Callable[[int, int], None],
        completed: Callable[[int], bool],
        cleared: Callable[[], None],
    ) -> None:
        """Name who is called with the packet identifier and reason code of each acknowledgement, and after a choke.

        `acknowledged` gets PUBACK, and PUBREC where it ends the exchange; `received` gets PUBREC where PUBREL is to
        follow; `completed` gets PUBCOMP. Two of them tell whether the packet was in flight.
        """
        self._handler.acknowledged = acknowledged
        self._handler.received = received
        self._handler.completed = completed
        self._handler.cleared = cleared

    def size(self, message: Message) -> int:
        """Return how many bytes the PUBLISH packet of this message has."""
        return self._packets.size(message)

    def takes(self, message: Message) -> bool:
        """Tell whether the server's Maximum Packet Size allows the message."""
        most = self.limits.maximum_packet_size
        return most is None or self._packets.size(message) <= most

    def send(self, parcels: Sequence[tuple[int, bool, Message]]) -> None:
        """Send messages, each with its packet identifier and DUP flag, in one write."""
        if self._handler.is_over:
            return
        self._last_out = now = clock.monotonic()
        self._handler.outstanding.expect([packet_id for packet_id, _, message in parcels if message.qos], now)
        publish = self._packets.publish
        self._connection.send_package(b"".join([publish(m, packet_id, dup=dup) for packet_id, dup, m in parcels]))

    def release(self, packet_id: int) -> None:
        """Answer PUBREC with PUBREL (section 4.3.3)."""
        self._send(self._packets.pubrel(packet_id, _NORMAL))

    def release_again(self, packet_id: int) -> None:
        """Send PUBREL for a packet that an earlier connection of the session released (section 4.4)."""
        self._handler.outstanding.expect([packet_id], clock.monotonic())
        self.release(packet_id)

    def release_unknown(self, packet_id: int) -> None:
        """Answer PUBREC for a packet that is not known (section 3.6.2.1)."""
        self._send(self._packets.pubrel(packet_id, _NOT_FOUND))

    def _send(self, packet: bytes) -> None:
        if not self._handler.is_over:
            self._connection.send_package(packet)

    # The session's own packets.

    @property
    def answered(self) -> asyncio.Event:
        """Set while no packet awaits its acknowledgement."""
        return self._handler.outstanding.answered

    def tell(self, message: Message) -> None:
        """Send a message at QoS 0, if the server takes one of its size."""
        if self.takes(message):
            self.send([(0, False, message)])
        else:
            log.debug("%s is not published: it is larger than the broker takes", message.topic)

    async def publish(self, message: Message) -> int:
        """Publish as `submit` does, once there is room, and return the server's reason code. Raises LinkDownError."""
        await self._handler.outstanding.room(self.limits.receive_maximum)
        return await self.submit(message)

    def submit(self, message: Message) -> asyncio.Future[int]:
        """Send at QoS 1, as far as the server allows; the result is its reason code, or LinkDownError.

        What is larger than the server's Maximum Packet Size is not sent: its reason code is 0x95.
        """
        message = replace(
            message,
            qos=min(message.qos, self.limits.maximum_qos),
            retain=message.retain and self.limits.retain_available,
        )
        if message.qos == 0 or not self.takes(message):
            answer = asyncio.get_running_loop().create_future()
            answer.set_result(_NORMAL if self.takes(message) else _TOO_LARGE)
            self.tell(message)
            return answer
        packet_id, answer = self._handler.own_packet()
        self.send([(packet_id, False, message)])
        return answer

    async def subscribe(self, *filters: str, qos: int = 1) -> Sequence[int]:
        """Subscribe and return SUBACK's reason codes (section 3.9.3). Raises LinkDownError."""
        keeps_retain = self._version is Version.MQTT_5  # in MQTT 3.1.1 its bit is reserved (section 3.8.3)
        subscriptions = [gmqtt.Subscription(topic, qos=qos, retain_as_published=keeps_retain) for topic in filters]
        packet_id = self._connection.subscribe(subscriptions)
        return await self._handler.suback(packet_id)

    def acknowledge(self, inbound: Inbound | Released) -> None:
        """Send PUBACK for what was received at QoS 1, PUBREC at QoS 2, and PUBCOMP for PUBREL; nothing for QoS 0."""
        if inbound.packet_id is None or self._handler.is_over:
            return
        if isinstance(inbound, Released):
            self._handler.send_pubcomp(inbound.packet_id)
        elif inbound.qos == _EXACTLY_ONCE:
            self._handler.send_pubrec(inbound.packet_id)
        else:
            self._handler.send_puback(inbound.packet_id)

    # Its life and its end.

    async def watch(self) -> NoReturn:
        """Keep the connection alive and raise LinkDownError when it has ended, or when it is dead.

        Dead is a link on which an answer is outstanding, and until the deadline of the round-trip time none has come,
        and of what is queued to be sent the other side has received nothing.
        """
        unsent = 0
        while not self.ended.done():
            now = clock.monotonic()
            before, unsent = unsent, self._handler.unsent()
            # That a few small packets have arrived says nothing: a frozen server's machine still receives them.
            if unsent < before and (unsent or before >= _SOME_BYTES):
                self._handler.outstanding.progressed(now)
            left = next_check = _CHECK_EVERY
            if (since := self._handler.outstanding.since) is not None:
                silent_for = now - since
                if (left := self._round_trip.deadline - silent_for) <= 0:
                    text = f"no answer for {silent_for:.1f} s"
                    raise LinkDownError(text, cause=Cause.NO_PROGRESS, silent_for=silent_for)
            if self._keep_alive:
                ping_in = min(self._handler.last_in, self._last_out) + _PING_AFTER * self._keep_alive - now
                if ping_in <= 0:
                    self._ping()
                else:
                    next_check = min(next_check, ping_in)
            if self._tls is not None:
                self._tls.remind()
            await asyncio.wait([self.ended], timeout=min(left, next_check))
        raise self.ended.result()

    def probe(self) -> None:
        """Have the state machine told of the next packet that is received, and ask for one."""
        self._handler.is_probed = True
        self._ping()

    def _ping(self) -> None:
        """Send PINGREQ, if none is on its way."""
        if not (self._handler.outstanding.is_pinged or self._handler.is_over):
            self._last_out = now = clock.monotonic()
            self._handler.ping(now)

    @property
    def is_drained(self) -> bool:
        """Whether the other side has received what was sent, but for a little."""
        return self._handler.unsent() < _SOME_BYTES

    async def finish(self, *, within: float, publish_will: bool = False) -> None:
        """End the connection cleanly: DISCONNECT, then wait up to `within` seconds for the server to close.

        Closing first would make the kernel answer unread data with RST, which destroys what is still on its way, the
        DISCONNECT too. `publish_will` asks the server for the will all the same (section 3.14.2.1); MQTT 3.1.1 knows no
        other way for that than an end without DISCONNECT (its section 3.14.4).
        """
        if self.ended.done():
            return
        if publish_will and self._version is Version.MQTT_3_1_1:
            self._handler.hang_up()
        else:
            self._connection.send_disconnect(reason_code=_WITH_WILL if publish_will else _NORMAL)
        self._handler.is_muted = True
        await asyncio.wait([self.ended], timeout=within)

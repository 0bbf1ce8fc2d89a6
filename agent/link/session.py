"""One connection to a broker, from CONNECT to its end: gmqtt tamed. With `packets`, the only door to gmqtt.

gmqtt is codec and transport here (docs/decisions/0003): its Client, and with it its storage, replay and reconnecting,
is not used. A session is used once, and ends once: `ended` then holds the reason.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import NoReturn

import gmqtt
from gmqtt.mqtt.connection import MQTTConnection
from gmqtt.mqtt.utils import ConnectionState

from agent import clock, reasons
from agent.errors import Cause, ConnectRefusedError, LinkDownError
from agent.link import packets
from agent.link.dial import dial
from agent.link.handler import Handler, Protocol
from agent.link.progress import RoundTrip
from agent.link.states import Dialled, Event
from agent.model import Inbound, Limits, Message, Server, Version

log = logging.getLogger(__name__)

_RECEIVE_MAXIMUM = 100
_WRITE_BUFFER = 64 * 1024
_CHECK_EVERY = 1.0
_SOME_BYTES = 4096
_PING_AFTER = 0.75  # of the keep alive, so that a late timer does not exceed it
_NORMAL = 0x00
_WITH_WILL = 0x04
_NOT_FOUND = 0x92
_UNSUPPORTED = 0x84
_OTHER_VERSION = {
    Version.MQTT_5: 'the broker may know MQTT 3.1.1 only: set broker.protocol = "3.1.1"',
    Version.MQTT_3_1_1: 'the broker may know MQTT 5 only: set broker.protocol = "5"',
}
_MAXIMUM_PACKET_SIZE = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What CONNECT says (MQTT 5 section 3.1) and how long each step may take; all times are in seconds.

    MQTT 3.1.1 has no place for `session_expiry` and `will_delay`.
    """

    server: Server
    client_id: str
    version: Version = Version.MQTT_5
    username: str | None = None
    password: str | None = None
    keep_alive: int = 30
    clean_start: bool = False
    session_expiry: int = 86_400
    will: Message | None = None
    will_delay: int = 15
    connect_timeout: float = 3.0
    hello_timeout: float = 10.0
    dead_after: float = 10.0

    @property
    def clean_session(self) -> bool:
        """What CONNECT's flag says: Clean Start, or Clean Session, with which MQTT 3.1.1 ends the session as well."""
        return self.clean_start or (self.version is Version.MQTT_3_1_1 and self.session_expiry == 0)


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
    ) -> None:
        self.limits = limits
        self.server, self.source, self.peer = route.server, route.source, route.peer
        self.inbound: asyncio.Queue[Inbound] = handler.inbound
        self._connection = connection
        self._handler = handler
        self._round_trip = round_trip
        self._version = version
        self._packets = packets.encoder(version)
        self._keep_alive = limits.keep_alive
        self._last_out = clock.monotonic()

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
    def own_in_flight(self) -> int:
        """How many packets that the session sent for itself have no answer yet."""
        return self._handler.own_in_flight

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
        self._handler.expect([packet_id for packet_id, _, message in parcels if message.qos], now)
        publish = self._packets.publish
        self._connection.send_package(b"".join([publish(m, packet_id, dup=dup) for packet_id, dup, m in parcels]))

    def release(self, packet_id: int) -> None:
        """Answer PUBREC with PUBREL (section 4.3.3)."""
        self._send(self._packets.pubrel(packet_id, _NORMAL))

    def release_again(self, packet_id: int) -> None:
        """Send PUBREL for a packet that an earlier connection of the session released (section 4.4)."""
        self._handler.expect([packet_id], clock.monotonic())
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
        return self._handler.answered

    @property
    def has_room(self) -> bool:
        """Whether one more packet stays within the server's Receive Maximum (MQTT 5 section 4.9)."""
        return self._handler.unanswered < self.limits.receive_maximum

    def tell(self, message: Message) -> None:
        """Send a message at QoS 0, if the server takes one of its size."""
        if self.takes(message):
            self.send([(0, False, message)])
        else:
            log.debug("%s is not published: it is larger than the broker takes", message.topic)

    async def publish(self, message: Message) -> int:
        """Publish as `submit` does, and return the server's reason code. Raises LinkDownError."""
        return await self.submit(message)

    def submit(self, message: Message) -> asyncio.Future[int]:
        """Send at QoS 1, as far as the server allows; the result is its reason code, or LinkDownError."""
        message = replace(
            message,
            qos=min(message.qos, self.limits.maximum_qos),
            retain=message.retain and self.limits.retain_available,
        )
        if message.qos == 0:
            self.send([(0, False, message)])
            answer = asyncio.get_running_loop().create_future()
            answer.set_result(_NORMAL)
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

    def acknowledge(self, inbound: Inbound) -> None:
        """Send PUBACK for what was received at QoS 1; nothing for QoS 0."""
        if inbound.packet_id is not None and not self._handler.is_over:
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
                self._handler.progressed(now)
            left = _CHECK_EVERY
            if (since := self._handler.waiting_since) is not None:
                silent_for = now - since
                if (left := self._round_trip.deadline - silent_for) <= 0:
                    text = f"no answer for {silent_for:.1f} s"
                    raise LinkDownError(text, cause=Cause.NO_PROGRESS, silent_for=silent_for)
            quiet = now - min(self._handler.last_in, self._last_out)
            if self._keep_alive and quiet >= _PING_AFTER * self._keep_alive:
                self._ping()
            await asyncio.wait([self.ended], timeout=min(left, _CHECK_EVERY))
        raise self.ended.result()

    def probe(self) -> None:
        """Have the state machine told of the next packet that is received, and ask for one."""
        self._handler.is_probed = True
        self._ping()

    def _ping(self) -> None:
        """Send PINGREQ, if none is on its way."""
        if not (self._handler.pinged or self._handler.is_over):
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


@asynccontextmanager
async def open_session(
    hello: Hello, *, round_trip: RoundTrip | None = None, tell: Callable[[Event], None] = lambda _event: None
) -> AsyncIterator[Session]:
    """Connect, and abort the connection at the end whatever happens. Raises LinkDownError and ConnectRefusedError.

    `tell` gets what the state machine has to know; `round_trip` is what is known of the path, and learns.
    """
    round_trip = round_trip or RoundTrip(dead_after=hello.dead_after)
    connected = await dial(hello.server, timeout=hello.connect_timeout, dead_after=hello.dead_after)
    route = _route(connected, hello)
    tell(Dialled(source=route.source))
    level = packets.encoder(hello.version).level
    handler = Handler(ConnectionState(protocol_version=level), round_trip, tell)
    connection = await _connection(connected, handler, hello)
    try:
        began = clock.monotonic()
        limits = await _greet(connection, handler, hello)
        round_trip.answered(clock.monotonic() - began)
        yield Session(connection, handler, limits, version=hello.version, route=route, round_trip=round_trip)
    finally:
        await handler.bury()


def _route(connected: socket.socket, hello: Hello) -> Route:
    try:
        return Route(server=hello.server, source=str(connected.getsockname()[0]), peer=str(connected.getpeername()[0]))
    except OSError as exc:  # it was reset meanwhile
        connected.close()
        raise LinkDownError(f"cannot connect to {hello.server}: {exc.strerror}", cause=Cause.RESET) from exc


async def _connection(connected: socket.socket, handler: Handler, hello: Hello) -> MQTTConnection:
    loop = asyncio.get_running_loop()
    try:
        transport, protocol = await loop.create_connection(lambda: Protocol(handler), sock=connected)
    except OSError as exc:
        connected.close()
        raise LinkDownError(f"cannot connect to {hello.server}: {exc}", cause=Cause.RESET) from exc
    transport.set_write_buffer_limits(high=_WRITE_BUFFER)
    connection = MQTTConnection(transport, protocol, hello.clean_session, hello.keep_alive, package_handler=handler)
    handler.adopt(connection, transport, protocol)
    return connection


async def _greet(connection: MQTTConnection, handler: Handler, hello: Hello) -> Limits:
    try:
        async with asyncio.timeout(hello.hello_timeout):
            await connection.auth(
                hello.client_id,
                # As bytes: of text, gmqtt takes the characters for its length.
                hello.username.encode() if hello.username is not None else None,
                hello.password.encode() if hello.password is not None else None,
                will_message=_will(hello),
                session_expiry_interval=hello.session_expiry,
                receive_maximum=_RECEIVE_MAXIMUM,
                maximum_packet_size=_MAXIMUM_PACKET_SIZE,
            )
            session_present, code, properties = await handler.connack
    except TimeoutError:
        raise LinkDownError(
            f"{hello.server} accepted the connection, but sent no CONNACK for {hello.hello_timeout:g} s",
            cause=Cause.NO_CONNACK,
        ) from None
    if code > 0:
        raise _refusal(hello, code, properties)
    return _limits(hello, session_present=session_present, properties=properties)


def _refusal(hello: Hello, code: int, properties: dict[str, list[str]]) -> ConnectRefusedError:
    """Return what CONNACK's code means. Below 0x80 it is a return code of MQTT 3.1.1, whatever was asked for."""
    if code < reasons.GRANTED_BELOW:
        detail, reason_code = reasons.describe_return_code(code), reasons.of_return_code(code)
    else:
        detail, reason_code = reasons.describe(code), code
    if said := properties.get("reason_string", [""])[0]:
        detail += f" ({said})"
    if reason_code == _UNSUPPORTED or (code < reasons.GRANTED_BELOW and hello.version is Version.MQTT_5):
        detail += f"; {_OTHER_VERSION[hello.version]}"
    return ConnectRefusedError(
        f"{hello.server} refused the connection: {detail}",
        reason_code=reason_code,
        reference=properties.get("server_reference", [""])[0],
    )


def _will(hello: Hello) -> gmqtt.Message | None:
    if hello.will is None:
        return None
    return gmqtt.Message(
        hello.will.topic,
        hello.will.payload,
        qos=hello.will.qos,
        retain=hello.will.retain,
        will_delay_interval=hello.will_delay,
        content_type=hello.will.content_type,
    )


def _limits(hello: Hello, *, session_present: bool, properties: dict[str, list[int]]) -> Limits:
    def said(name: str, otherwise: int) -> int:
        return properties.get(name, [otherwise])[0]

    return Limits(
        session_present=session_present,
        receive_maximum=max(1, said("receive_maximum", 65_535)),
        maximum_packet_size=said("maximum_packet_size", 0) or None,
        maximum_qos=said("max_qos", 2),
        retain_available=bool(said("retain_available", 1)),
        keep_alive=said("server_keep_alive", hello.keep_alive),
        gives_reasons=hello.version is Version.MQTT_5,
    )

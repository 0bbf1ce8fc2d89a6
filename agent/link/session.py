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
from gmqtt.mqtt.constants import MQTTv50
from gmqtt.mqtt.utils import ConnectionState

from agent import clock, reasons
from agent.errors import Cause, ConnectRefusedError, LinkDownError
from agent.link import packets
from agent.link.dial import dial
from agent.link.handler import Handler, Protocol
from agent.link.handshake import encrypt, hear_refusal, hint
from agent.link.tls import Tls
from agent.model import Inbound, Limits, Message, Server

log = logging.getLogger(__name__)

_RECEIVE_MAXIMUM = 100
_WRITE_BUFFER = 64 * 1024
_CHECK_EVERY = 1.0
_PING_AFTER = 0.75  # of the keep alive, so that a late timer does not exceed it
_NORMAL = 0x00
_WITH_WILL = 0x04
_NOT_FOUND = 0x92
_UNSUPPORTED = 0x84
_MAXIMUM_PACKET_SIZE = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What CONNECT says (MQTT 5 section 3.1) and how long each step may take; all times are in seconds.

    `hello_timeout` covers TLS, where there is `tls`, and CONNACK together.
    """

    server: Server
    client_id: str
    username: str | None = None
    password: str | None = None
    keep_alive: int = 30
    clean_start: bool = False
    session_expiry: int = 86_400
    will: Message | None = None
    will_delay: int = 15
    connect_timeout: float = 3.0
    hello_timeout: float = 10.0
    tls: Tls | None = None
    dead_after: float = 10.0


class Session:
    """An open connection. `limits` is what CONNACK said; `inbound` what was received, in order."""

    def __init__(self, connection: MQTTConnection, handler: Handler, limits: Limits, hello: Hello) -> None:
        self.limits = limits
        self.inbound: asyncio.Queue[Inbound] = handler.inbound
        self._connection = connection
        self._handler = handler
        self._dead_after = hello.dead_after
        self._keep_alive = limits.keep_alive
        self._last_out = clock.monotonic()
        self._tls = hello.tls

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
        return not self._handler.choked and not self.ended.done()

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
        return packets.size(message)

    def takes(self, message: Message) -> bool:
        """Tell whether the server's Maximum Packet Size allows the message."""
        most = self.limits.maximum_packet_size
        return most is None or packets.size(message) <= most

    def send(self, parcels: Sequence[tuple[int, bool, Message]]) -> None:
        """Send messages, each with its packet identifier and DUP flag, in one write."""
        if self.ended.done():
            return
        self._last_out = now = clock.monotonic()
        self._handler.expect(sum(message.qos > 0 for _, _, message in parcels), now)
        self._connection.send_package(
            b"".join([packets.publish(m, packet_id, dup=dup) for packet_id, dup, m in parcels])
        )

    def release(self, packet_id: int) -> None:
        """Answer PUBREC with PUBREL (section 4.3.3)."""
        self._connection.send_package(packets.pubrel(packet_id))

    def release_again(self, packet_id: int) -> None:
        """Send PUBREL for a packet that an earlier connection of the session released (section 4.4)."""
        self._handler.expect(1, clock.monotonic())
        self.release(packet_id)

    def release_unknown(self, packet_id: int) -> None:
        """Answer PUBREC for a packet that is not known (section 3.6.2.1)."""
        self._connection.send_package(packets.pubrel(packet_id, _NOT_FOUND))

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
        """Publish at QoS 1, as far as the server allows, and return its reason code. Raises LinkDownError."""
        message = replace(
            message,
            qos=min(message.qos, self.limits.maximum_qos),
            retain=message.retain and self.limits.retain_available,
        )
        if message.qos == 0:
            self.send([(0, False, message)])
            return _NORMAL
        packet_id, answer = self._handler.own_packet()
        self.send([(packet_id, False, message)])
        return await answer

    async def subscribe(self, *filters: str, qos: int = 1) -> Sequence[int]:
        """Subscribe and return SUBACK's reason codes (section 3.9.3). Raises LinkDownError."""
        subscriptions = [gmqtt.Subscription(topic, qos=qos, retain_as_published=True) for topic in filters]
        packet_id = self._connection.subscribe(subscriptions)
        return await self._handler.suback(packet_id)

    def acknowledge(self, inbound: Inbound) -> None:
        """Send PUBACK for what was received at QoS 1; nothing for QoS 0."""
        if inbound.packet_id is not None and not self.ended.done():
            self._handler.send_puback(inbound.packet_id)

    # Its life and its end.

    async def watch(self) -> NoReturn:
        """Keep the connection alive and raise LinkDownError when it has ended, or when it is dead.

        Dead is a link on which an answer is outstanding, and for `dead_after` seconds none has come and nothing that
        was sent has been received by the other side.
        """
        unsent = 0
        while not self.ended.done():
            now = clock.monotonic()
            before, unsent = unsent, self._handler.unsent()
            if unsent < before:
                self._handler.progressed(now)
            if (since := self._handler.waiting_since) is not None and now - since >= self._dead_after:
                raise LinkDownError(f"no answer for {now - since:.1f} s", cause=Cause.NO_PROGRESS)
            quiet = now - min(self._handler.last_in, self._last_out)
            if self._keep_alive and quiet >= _PING_AFTER * self._keep_alive and not self._handler.pinged:
                self._last_out = now
                self._handler.ping(now)
            if self._tls is not None:
                self._tls.remind()
            await asyncio.wait([self.ended], timeout=_CHECK_EVERY)
        raise self.ended.result()

    async def finish(self, *, within: float, publish_will: bool = False) -> None:
        """End the connection cleanly: DISCONNECT, then wait up to `within` seconds for the server to close.

        Closing first would make the kernel answer unread data with RST, which destroys what is still on its way, the
        DISCONNECT too. `publish_will` asks the server for the will all the same (section 3.14.2.1).
        """
        if not self.ended.done():
            self._connection.send_disconnect(reason_code=_WITH_WILL if publish_will else _NORMAL)
            await asyncio.wait([self.ended], timeout=within)


@asynccontextmanager
async def open_session(hello: Hello) -> AsyncIterator[Session]:
    """Connect, and abort the connection at the end whatever happens. Raises LinkDownError and ConnectRefusedError."""
    connected = await dial(hello.server, timeout=hello.connect_timeout, dead_after=hello.dead_after)
    handler = Handler(ConnectionState(protocol_version=MQTTv50))
    until = asyncio.get_running_loop().time() + hello.hello_timeout
    connection = await _connection(connected, handler, hello, until)
    try:
        limits = await _greet(connection, handler, hello, until)
        yield Session(connection, handler, limits, hello)
    finally:
        await handler.bury()


async def _connection(connected: socket.socket, handler: Handler, hello: Hello, until: float) -> MQTTConnection:
    protocol = Protocol(handler)
    first = protocol if hello.tls is None else asyncio.Protocol()
    try:
        wire, _ = await asyncio.get_running_loop().create_connection(lambda: first, sock=connected)
    except OSError as exc:
        connected.close()
        raise LinkDownError(f"cannot connect to {hello.server}: {exc}", cause=Cause.RESET) from exc
    transport = wire
    if hello.tls is not None:
        transport = await encrypt(wire, protocol, hello.tls, hello.server, until=until)
    transport.set_write_buffer_limits(high=_WRITE_BUFFER)
    connection = MQTTConnection(transport, protocol, hello.clean_start, hello.keep_alive, package_handler=handler)
    handler.adopt(connection, transport, protocol, wire=wire)
    return connection


async def _greet(connection: MQTTConnection, handler: Handler, hello: Hello, until: float) -> Limits:
    try:
        async with asyncio.timeout_at(until):
            if hello.tls is not None:
                await hear_refusal()
            await connection.auth(
                hello.client_id,
                hello.username,
                hello.password,
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
    except LinkDownError as exc:
        if more := hint(exc, hello.server):
            raise LinkDownError(f"{exc}, {more}", cause=Cause.RESET) from exc
        raise
    if 0 < code < reasons.GRANTED_BELOW:
        # MQTT 3.1.1's CONNACK has such return codes; 1 is its "unacceptable protocol version".
        raise ConnectRefusedError(
            f"{hello.server} refused the connection: CONNACK 0x{code:02X} is none of MQTT 5;"
            " the broker may know MQTT 3.1.1 only",
            reason_code=_UNSUPPORTED,
        )
    if code >= reasons.GRANTED_BELOW:
        said = properties.get("reason_string", [""])[0]
        detail = f"{reasons.describe(code)} ({said})" if said else reasons.describe(code)
        raise ConnectRefusedError(f"{hello.server} refused the connection: {detail}", reason_code=code)
    return _limits(hello, session_present=session_present, properties=properties)


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
    )

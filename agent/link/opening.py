"""Opening a session: TCP, TLS, CONNECT and what CONNACK says. Whatever fails is told in words that help."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import gmqtt
from gmqtt.mqtt.connection import MQTTConnection
from gmqtt.mqtt.utils import ConnectionState

from agent import clock, reasons
from agent.errors import Cause, ConnectRefusedError, LinkDownError
from agent.link import packets
from agent.link.dial import dial
from agent.link.handler import Handler
from agent.link.handshake import encrypt, hear_refusal, hint
from agent.link.progress import RoundTrip
from agent.link.protocol import Protocol
from agent.link.session import Route, Session
from agent.link.states import Dialled, Event
from agent.link.tls import Tls
from agent.model import Limits, Message, Server, Version

_WRITE_BUFFER = 64 * 1024
_UNSUPPORTED = 0x84
_OTHER_VERSION = {
    Version.MQTT_5: 'the broker may know MQTT 3.1.1 only: set broker.protocol = "3.1.1"',
    Version.MQTT_3_1_1: 'the broker may know MQTT 5 only: set broker.protocol = "5"',
}
_MAXIMUM_PACKET_SIZE = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What CONNECT says (MQTT 5 section 3.1) and how long each step may take; all times are in seconds.

    `hello_timeout` covers TLS, where there is `tls`, and CONNACK together. MQTT 3.1.1 has no place for `session_expiry`
    and `will_delay`.
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
    tls: Tls | None = None
    dead_after: float = 10.0
    receive_maximum: int = 100
    """How many messages the server may have sent that are not acknowledged yet."""

    @property
    def clean_session(self) -> bool:
        """What CONNECT's flag says: Clean Start, or Clean Session, with which MQTT 3.1.1 ends the session as well."""
        return self.clean_start or (self.version is Version.MQTT_3_1_1 and self.session_expiry == 0)


@asynccontextmanager
async def open_session(
    hello: Hello, *, round_trip: RoundTrip | None = None, tell: Callable[[Event], None] = lambda _event: None
) -> AsyncIterator[Session]:
    """Connect, and abort the connection at the end whatever happens. Raises LinkDownError and ConnectRefusedError.

    `tell` gets what the state machine has to know; `round_trip` is what is known of the path, and learns.
    """
    round_trip = round_trip or RoundTrip(dead_after=hello.dead_after)
    connected = await dial(
        hello.server,
        timeout=hello.connect_timeout,
        dead_after=hello.dead_after,
        again_after=round_trip.again_after,
    )
    route = _route(connected, hello)
    tell(Dialled(source=route.source, peer=route.peer))
    level = packets.encoder(hello.version).level
    handler = Handler(ConnectionState(protocol_version=level), round_trip, tell)
    until = asyncio.get_running_loop().time() + hello.hello_timeout
    connection = await _connection(connected, handler, hello, until)
    try:
        began = clock.monotonic()
        limits = await _greet(connection, handler, hello, until)
        round_trip.answered(clock.monotonic() - began)
        yield Session(
            connection, handler, limits, version=hello.version, route=route, round_trip=round_trip, tls=hello.tls
        )
    finally:
        await handler.bury()


def _route(connected: socket.socket, hello: Hello) -> Route:
    try:
        source, peer = connected.getsockname(), connected.getpeername()
    except OSError as exc:  # it was reset meanwhile
        connected.close()
        raise LinkDownError(f"cannot connect to {hello.server}: {exc.strerror}", cause=Cause.RESET) from exc
    return Route(server=hello.server, source=str(source[0]), peer=_with_zone(*peer))


def _with_zone(host: str, _port: int, _flow: int = 0, zone: int = 0) -> str:
    """Return an address that leads back to its host: a link-local one needs the interface (RFC 4007 section 11)."""
    return f"{host}%{zone}" if zone else host


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
    connection = MQTTConnection(transport, protocol, hello.clean_session, hello.keep_alive, package_handler=handler)
    handler.adopt(connection, transport, protocol, wire=wire)
    return connection


async def _greet(connection: MQTTConnection, handler: Handler, hello: Hello, until: float) -> Limits:
    try:
        async with asyncio.timeout_at(until):
            if hello.tls is not None:
                await hear_refusal()
            await connection.auth(
                hello.client_id,
                # As bytes: of text, gmqtt takes the characters for its length.
                hello.username.encode() if hello.username is not None else None,
                hello.password.encode() if hello.password is not None else None,
                will_message=_will(hello),
                session_expiry_interval=hello.session_expiry,
                receive_maximum=hello.receive_maximum,
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

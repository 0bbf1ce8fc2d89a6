"""One connection to the scripted broker: what it answers, and what a test may do to it."""

import asyncio
import enum
import socket
import struct
from dataclasses import replace
from typing import Protocol

from tests.support.codec import Stream, encode
from tests.support.conduct import Conduct, Session
from tests.support.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
)
from tests.support.script import Hello, Received, Script
from tests.support.wire import MQTT_3_1_1, MQTT_5, UNSUPPORTED_VERSION, MalformedError, Properties, VersionError

GOODBYE = 2.0
"""Seconds that a client has for closing after its DISCONNECT."""


class Phase(enum.Enum):
    GREETING = enum.auto()
    OPEN = enum.auto()
    LEAVING = enum.auto()
    """The client sent DISCONNECT: nothing more may come from it."""
    ENDED = enum.auto()


class House(Protocol):
    """What a connection asks of its broker."""

    @property
    def level(self) -> int: ...
    def clock(self) -> float: ...
    def made(self, connection: "Connection") -> None: ...
    def changed(self) -> None: ...
    def report(self, statement: str, text: str, connection: int) -> None: ...
    def open_session(self, connection: "Connection", connect: Connect) -> tuple[Session, bool]: ...
    def received(self, publish: Received, *, first: bool) -> None: ...
    def acknowledge(self, connection: "Connection", answer: Puback | Pubrec | Pubcomp) -> None: ...
    def ended(self, connection: "Connection") -> None: ...


class Connection(asyncio.Protocol):
    """Parses and answers synchronously; one write for all that was answered to one read."""

    def __init__(self, house: House, number: int, script: Script) -> None:
        self.number = number
        self.script = script
        self.connect: Connect | None = None
        self.connack: Connack | None = None
        self.disconnect: Disconnect | None = None
        """The client's."""
        self.session = Session("")
        self.phase = Phase.GREETING
        self.refused_level: int | None = None
        """That of a CONNECT which the broker does not know."""
        self.publishes = 0
        self.opened = house.clock()
        self.closed: float | None = None
        self.will_due: Will | None = None
        """Set at the end: the will that a broker would publish after its delay."""
        self._house = house
        self._level = house.level
        self._stream = Stream(house.level)
        self._conduct: Conduct | None = None
        self._out = bytearray()
        self._goodbye: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._house.made(self)

    def data_received(self, data: bytes) -> None:
        try:
            for packet, size in self._stream.feed(data):
                self._receive(packet, size)
                if self.phase is Phase.ENDED:
                    break
        except VersionError as exc:
            self._refuse_version(exc.level)
        except MalformedError as exc:
            self.report("section 4.13", str(exc))
            self.end(exc.code)
        self._flush()
        self._house.changed()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self._goodbye is not None:
            self._goodbye.cancel()
        self.phase = Phase.ENDED
        self.closed = self._house.clock()
        if self._conduct is not None and self.disconnect is None:
            self._conduct.silent_until(self.closed)
        accepted = self.connack is not None and self.connack.reason == 0
        if self.connect and accepted and (self.disconnect is None or self.disconnect.reason != 0):
            self.will_due = self.connect.will
        self._house.ended(self)

    # What a test may do to it.

    def send(self, packet: Packet) -> None:
        self.send_raw(encode(packet, self._level))

    def send_raw(self, data: bytes) -> None:
        """Send any bytes, also such as are no packet."""
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        self._out += data

    def abort(self) -> None:
        """Reset it (RST): what was sent and not yet read is lost on both sides."""
        if self._transport is not None and not self._transport.is_closing():
            sock: socket.socket = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        self._out.clear()
        self.phase = Phase.ENDED

    def end(self, reason: int, properties: Properties | None = None) -> None:
        """Send DISCONNECT with this reason code and close; in MQTT 3.1.1 a server only closes."""
        if self.phase is not Phase.ENDED:
            if self.phase is Phase.OPEN and self._level == MQTT_5:
                self.send(Disconnect(reason=reason, properties=properties or {}))
            self.close()

    def close(self) -> None:
        """Close after what was sent, without a DISCONNECT."""
        self._flush()
        self.phase = Phase.ENDED
        if self._transport is not None:
            self._transport.close()

    def stall(self) -> None:
        """Read nothing any more."""
        if self._conduct is not None:
            self._conduct.deaf()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            if self._conduct is not None:
                self._conduct.listening(self._house.clock())
            self._transport.resume_reading()

    def answer(self, packet: Puback | Pubrec | Pubcomp) -> None:
        """Send an acknowledgement, and free its packet identifier where it is the last one."""
        if self.phase is not Phase.OPEN:
            return
        if not isinstance(packet, Pubrec) or packet.reason >= 0x80:
            assert self._conduct is not None
            self._conduct.answered(packet.packet_id)
        self.send(packet)

    def report(self, statement: str, text: str) -> None:
        self._house.report(statement, text, self.number)

    # What a packet does.

    def _flush(self) -> None:
        live = self.phase in {Phase.GREETING, Phase.OPEN}
        if live and self._out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(bytes(self._out))
        self._out.clear()

    def _receive(self, packet: Packet, size: int) -> None:
        if self._conduct is not None:
            self._conduct.heard(size=size, now=self._house.clock())
        if self.phase is Phase.LEAVING:
            self.report("MQTT-3.14.4-1", f"{type(packet).__name__.upper()} after DISCONNECT")
            return
        if self.connect is None and not isinstance(packet, Connect):
            self.report("MQTT-3.1.0-1", f"the first packet was {type(packet).__name__.upper()}")
            self.close()
            return
        if self.connect is not None and self.phase is Phase.GREETING:
            return
        self._handle(packet)
        if self.script.on_packet is not None:
            self.script.on_packet(self, packet)

    def _handle(self, packet: Packet) -> None:
        match packet:
            case Publish():
                self._on_publish(packet)
            case Puback() | Pubcomp() | Pubrec():
                self._on_answer(packet)
            case Pubrel():
                self._on_pubrel(packet)
            case Connect():
                self._on_connect(packet)
            case Subscribe() | Unsubscribe():
                self._on_request(packet)
            case Pingreq():
                self.send(Pingresp())
            case Disconnect():
                self._on_disconnect(packet)
            case Auth():
                self._judge().authenticates()
            case _:
                self.report("section 2.1.2", f"{type(packet).__name__.upper()} from a client")
                self.end(0x82)

    def _judge(self) -> Conduct:
        assert self._conduct is not None
        return self._conduct

    def _refuse_version(self, level: int) -> None:
        self.refused_level = level
        code = 1 if self._level == MQTT_3_1_1 else UNSUPPORTED_VERSION  # 3.1.1 [MQTT-3.1.2-2], 5 section 3.1.2.2
        self.send(Connack(reason=code))
        self.close()

    def _on_connect(self, packet: Connect) -> None:
        if self.connect is not None:
            self.report("MQTT-3.1.0-2", "a second CONNECT")
            self.end(0x82)
            return
        self.connect = packet
        script = self.script
        refused = script.reason != 0
        self.session, present = (
            (Session(packet.client_id), False) if refused else self._house.open_session(self, packet)
        )
        properties = dict(script.properties)
        if not packet.client_id and self._level == MQTT_5:
            properties["assigned_client_identifier"] = self.session.client_id
        connack = Connack(session_present=present, reason=script.reason, properties=properties)
        self._conduct = Conduct(
            session=self.session,
            connect=packet,
            connack=connack,
            report=self.report,
            now=self._house.clock(),
            level=self._level,
        )
        if script.hello is Hello.CONNACK:
            self.connack = connack
            self.send(connack)
            self.phase = Phase.OPEN
        if script.raw:
            self.send_raw(script.raw)
        if script.hello is Hello.CLOSE or refused:
            self.close()
        elif present and self.phase is Phase.OPEN:
            for sent in self.session.outgoing.values():
                self.send(replace(sent, dup=True) if isinstance(sent, Publish) else sent)

    def _on_publish(self, packet: Publish) -> None:
        topic = self._judge().topic(packet)
        resolved = packet if packet.topic else replace(packet, topic=topic)
        self._judge().publish(resolved)
        code = self.script.ack(resolved) if packet.packet_id else None
        first = packet.packet_id not in self.session.held
        self._house.received(
            Received(packet=packet, topic=topic, connection=self.number, at=self._house.clock(), code=code), first=first
        )
        if packet.packet_id is not None:
            # In MQTT 3.1.1 a server cannot refuse: it acknowledges, and may drop what it has got.
            told = code if code is None or self._level == MQTT_5 else 0
            if packet.qos == 2 and (told is None or told < 0x80):
                self.session.held.add(packet.packet_id)
            if told is not None:
                kind = Puback if packet.qos == 1 else Pubrec
                self._house.acknowledge(self, kind(packet_id=packet.packet_id, reason=told))
        self.publishes += 1
        if self.publishes == self.script.abort_after:
            self._flush()
            self.abort()

    def _on_pubrel(self, packet: Pubrel) -> None:
        known = packet.packet_id in self.session.held | self.session.released
        self._judge().release(packet)
        self.session.held.discard(packet.packet_id)
        code = self.script.complete(packet)
        if code is not None:
            self._house.acknowledge(self, Pubcomp(packet_id=packet.packet_id, reason=code if known else 0x92))

    def _on_answer(self, packet: Puback | Pubrec | Pubcomp) -> None:
        self._judge().acknowledges(packet.packet_id, type(packet))
        outgoing = self.session.outgoing
        if isinstance(packet, Pubrec) and packet.reason < 0x80:
            release = Pubrel(packet_id=packet.packet_id, reason=0 if packet.packet_id in outgoing else 0x92)
            if packet.packet_id in outgoing:
                outgoing[packet.packet_id] = release
            self.send(release)
        else:
            outgoing.pop(packet.packet_id, None)

    def _on_request(self, packet: Subscribe | Unsubscribe) -> None:
        self._judge().request(packet)
        subscriptions = self.session.subscriptions
        if isinstance(packet, Subscribe):
            reasons = tuple(self.script.grant(item) for item in packet.filters)
            subscriptions |= {
                item.topic: code for item, code in zip(packet.filters, reasons, strict=True) if code < 0x80
            }
            self.send(Suback(packet_id=packet.packet_id, reasons=reasons))
        else:
            gone = tuple(0x00 if subscriptions.pop(item, None) is not None else 0x11 for item in packet.filters)
            self.send(Unsuback(packet_id=packet.packet_id, reasons=gone))

    def _on_disconnect(self, packet: Disconnect) -> None:
        self.disconnect = packet
        expiry = packet.properties.get("session_expiry_interval")
        if isinstance(expiry, int):
            self.session.expiry = expiry
        self._flush()
        self.phase = Phase.LEAVING
        if self._transport is not None:
            # Half-closed, so that what still comes is seen; and closed by force when the client does not.
            self._transport.write_eof()
            self._goodbye = asyncio.get_running_loop().call_later(GOODBYE, self._transport.close)

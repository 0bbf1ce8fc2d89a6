"""The codec of MQTT 5 and, at protocol level 4, of MQTT 3.1.1 (chapter 3), written from the standards for tests alone.

`decode` is strict: what the standard calls malformed or a protocol error raises `MalformedError`. What it only forbids
a client to do (DUP at QoS 0, a wildcard in a topic name) is decoded, and judged in `tests.support.conduct`.
`encode` writes what it is told, so that a test can send nonsense on purpose.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar

from tests.support import wire
from tests.support.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Filter,
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
)  # fmt: skip
from tests.support.wire import MQTT_3_1_1, MQTT_5, PROTOCOL_ERROR, MalformedError, Properties, Reader, VersionError

__all__ = ["MalformedError", "Stream", "decode", "encode"]

T = TypeVar("T")
PUBLISH_REASONS = frozenset({0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99})
ACKS: dict[int, tuple[type[Puback | Pubrec | Pubrel | Pubcomp], frozenset[int]]] = {
    4: (Puback, PUBLISH_REASONS),
    5: (Pubrec, PUBLISH_REASONS),
    6: (Pubrel, frozenset({0x00, 0x92})),
    7: (Pubcomp, frozenset({0x00, 0x92})),
}
ANSWERS: dict[int, tuple[type[Suback | Unsuback], frozenset[int]]] = {
    9: (Suback, frozenset({0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2})),
    11: (Unsuback, frozenset({0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91})),
}
BARE: dict[int, type[Pingreq | Pingresp]] = {12: Pingreq, 13: Pingresp}
ENDS: dict[int, tuple[type[Disconnect | Auth], frozenset[int]]] = {
    14: (Disconnect, frozenset({0, 4, *range(0x80, 0x84), 0x87, 0x89, *range(0x8B, 0xA3)} - {0x8C, 0x91, 0x92})),
    15: (Auth, frozenset({0x00, 0x18, 0x19})),
}
CONNACK_REASONS = frozenset({0, *range(0x80, 0x8B), 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F})
RETURN_CODES = frozenset(range(6))
"""CONNACK's at level 4 (3.1.1 section 3.2.2.3)."""
GRANTS = frozenset({0, 1, 2, 0x80})
"""SUBACK's at level 4 (3.1.1 section 3.9.3)."""
KINDS: dict[type[Packet], int] = {
    Puback: 4, Pubrec: 5, Pubrel: 6, Pubcomp: 7, Suback: 9, Unsuback: 11,
    Pingreq: 12, Pingresp: 13, Disconnect: 14, Auth: 15,
}  # fmt: skip


class Stream:
    """Cuts what a peer sends into packets of this protocol level."""

    def __init__(self, level: int = MQTT_5) -> None:
        self._level = level
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[Packet, int]]:
        """Yield each complete packet and its size on the wire; raises `MalformedError` at the first bad one."""
        data = self._rest + data if self._rest else data
        at, end = 0, len(data)
        try:
            while end - at >= 2:
                length, body = data[at + 1], at + 2
                if length > 0x7F:
                    length, body = _remaining_length(data, at + 1)
                if data[at] < 0x10:
                    raise MalformedError("packet type 0")
                if length < 0 or body + length > end:
                    break
                packet = decode(data[at] >> 4, data[at] & 0x0F, data[body : body + length], self._level)
                size = body + length - at
                at = body + length
                yield packet, size
        finally:
            self._rest = data[at:]


def _remaining_length(data: bytes, at: int) -> tuple[int, int]:
    """Section 2.1.4: the length and where the body starts; the length is -1 where it is not complete yet."""
    head = data[at : at + 4]
    if len(head) < 4 and head[-1] > 0x7F:
        return -1, at
    reader = Reader(head)
    return reader.varint(), at + reader.at


def decode(kind: int, flags: int, body: bytes, level: int = MQTT_5) -> Packet:
    """Decode one packet: its type and flags (section 2.1) and all that follows the remaining length."""
    if kind == 3:
        return _publish(flags, Reader(body, level))
    if flags != (0b0010 if kind in {6, 8, 10} else 0):
        raise MalformedError(f"flags {flags:04b} in packet type {kind}")  # [MQTT-2.1.3-1]
    reader = Reader(body, level)
    if kind in ACKS:
        ack, allowed = ACKS[kind]
        packet_id = reader.packet_id()
        reason, properties = _reason(reader, ack.__name__.upper(), allowed)
        packet: Packet = ack(packet_id=packet_id, reason=reason, properties=properties)
    elif kind in BARE:
        packet = BARE[kind]()
    elif kind in ENDS and (kind, level) != (15, MQTT_3_1_1):
        end, allowed = ENDS[kind]
        reason, properties = _reason(reader, end.__name__.upper(), allowed)
        packet = end(reason=reason, properties=properties)
    elif kind in ANSWERS:
        packet = _answers(kind, reader)
    elif kind in REST:
        packet = REST[kind](reader)
    else:
        raise MalformedError(f"packet type {kind}")
    reader.finish()
    return packet


def _publish(flags: int, reader: Reader) -> Publish:
    qos = flags >> 1 & 3
    if qos == 3:
        raise MalformedError("QoS 3")  # [MQTT-3.3.1-4]
    return Publish(
        topic=reader.text(),
        qos=qos,
        retain=flags & 1 == 1,
        dup=flags & 8 == 8,
        packet_id=reader.packet_id() if qos else None,
        properties=wire.read_properties(reader, "PUBLISH"),
        payload=reader.rest(),
    )


def _reason(reader: Reader, place: str, allowed: frozenset[int]) -> tuple[int, Properties]:
    """Reason code and properties, both of which may be left out (sections 3.4.2.1 and 3.14.2.1)."""
    if reader.level == MQTT_3_1_1:
        return 0, {}
    reason = reader.byte() if reader.at < reader.end else 0
    if reason not in allowed:
        raise MalformedError(f"reason code 0x{reason:02x} in {place}", PROTOCOL_ERROR)
    return reason, wire.read_properties(reader, place) if reader.at < reader.end else {}


def _some(reader: Reader, read: Callable[[Reader], T]) -> Iterator[T]:
    """One or more, up to the end of the packet ([MQTT-3.8.3-2], [MQTT-3.10.3-2])."""
    yield read(reader)
    while reader.at < reader.end:
        yield read(reader)


def _connect(reader: Reader) -> Connect:
    name, version = reader.text(), reader.byte()
    if (name, version) != ("MQTT", reader.level):
        raise VersionError(name, version)
    flags = reader.byte()
    will_qos = flags >> 3 & 3
    if flags & 1:
        raise MalformedError("the reserved CONNECT flag is set")  # [MQTT-3.1.2-3]
    if will_qos == 3 or (not flags & 0x04 and flags & 0x38):
        raise MalformedError(f"will flags {flags:08b}")  # [MQTT-3.1.2-11] to [MQTT-3.1.2-13]
    if version == MQTT_3_1_1 and flags & 0xC0 == 0x40:
        raise MalformedError("a password without a user name")  # 3.1.1 [MQTT-3.1.2-22]
    keep_alive, properties = reader.two(), wire.read_properties(reader, "CONNECT")
    client_id, will = reader.text(), None
    if flags & 0x04:
        will_properties = wire.read_properties(reader, "will")
        will = Will(
            topic=reader.text(),
            payload=reader.binary(),
            qos=will_qos,
            retain=flags & 0x20 != 0,
            properties=will_properties,
        )
    return Connect(
        client_id=client_id,
        clean_start=flags & 0x02 != 0,
        keep_alive=keep_alive,
        will=will,
        username=reader.text() if flags & 0x80 else None,
        password=reader.binary() if flags & 0x40 else None,
        properties=properties,
    )


def _connack(reader: Reader) -> Connack:
    flags, reason = reader.byte(), reader.byte()
    if flags > 1 or (flags and reason):
        raise MalformedError(f"CONNACK flags {flags:08b} with reason 0x{reason:02x}")  # [MQTT-3.2.2-1], [MQTT-3.2.2-6]
    if reason not in (RETURN_CODES if reader.level == MQTT_3_1_1 else CONNACK_REASONS):
        raise MalformedError(f"reason code 0x{reason:02x} in CONNACK", PROTOCOL_ERROR)
    return Connack(session_present=flags == 1, reason=reason, properties=wire.read_properties(reader, "CONNACK"))


def _subscribe(reader: Reader) -> Subscribe:
    packet_id, properties = reader.packet_id(), wire.read_properties(reader, "SUBSCRIBE")
    return Subscribe(packet_id=packet_id, filters=tuple(_some(reader, _filter)), properties=properties)


def _filter(reader: Reader) -> Filter:
    topic, options = reader.text(), reader.byte()
    qos, handling = options & 3, options >> 4 & 3
    if reader.level == MQTT_3_1_1 and options & 0xFC:
        raise MalformedError(f"requested QoS {options:08b}")  # 3.1.1 [MQTT-3.8.3-4]
    if options & 0xC0 or qos == 3 or handling == 3:
        raise MalformedError(f"subscription options {options:08b}")  # [MQTT-3.8.3-5]
    if topic.startswith("$share/") and options & 0x04:
        raise MalformedError("No Local on a shared subscription", PROTOCOL_ERROR)  # [MQTT-3.8.3-4]
    return Filter(
        topic=topic,
        qos=qos,
        no_local=options & 0x04 != 0,
        retain_as_published=options & 0x08 != 0,
        retain_handling=handling,
    )


def _unsubscribe(reader: Reader) -> Unsubscribe:
    packet_id, properties = reader.packet_id(), wire.read_properties(reader, "UNSUBSCRIBE")
    return Unsubscribe(packet_id=packet_id, filters=tuple(_some(reader, Reader.text)), properties=properties)


REST: dict[int, Callable[[Reader], Packet]] = {1: _connect, 2: _connack, 8: _subscribe, 10: _unsubscribe}


def _answers(kind: int, reader: Reader) -> Suback | Unsuback:
    cls, allowed = ANSWERS[kind]
    packet_id, properties = reader.packet_id(), wire.read_properties(reader, cls.__name__.upper())
    if reader.level == MQTT_3_1_1:
        if cls is Unsuback:
            return Unsuback(packet_id=packet_id, reasons=())
        allowed = GRANTS
    reasons = tuple(_some(reader, Reader.byte))
    if not allowed.issuperset(reasons):
        raise MalformedError(f"reason codes {reasons} in {cls.__name__.upper()}", PROTOCOL_ERROR)
    return cls(packet_id=packet_id, reasons=reasons, properties=properties)


def encode(packet: Packet, level: int = MQTT_5) -> bytes:
    """The bytes of `packet`, in the shortest form the standard allows; level 4 leaves out what it does not know."""
    flags = 0
    match packet:
        case Publish():
            kind, flags = 3, packet.dup << 3 | packet.qos << 1 | packet.retain
            body = wire.text(packet.topic) + _id(packet.packet_id)
            body += wire.write_properties(packet.properties, "PUBLISH", level) + packet.payload
        case Puback() | Pubrec() | Pubrel() | Pubcomp():
            kind, flags = KINDS[type(packet)], 2 if isinstance(packet, Pubrel) else 0
            body = _id(packet.packet_id) + _ending(packet, level)
        case Disconnect() | Auth():
            kind, body = KINDS[type(packet)], _ending(packet, level)
        case Pingreq() | Pingresp():
            kind, body = KINDS[type(packet)], b""
        case Connack():
            kind, body = 2, bytes((packet.session_present, packet.reason))
            body += wire.write_properties(packet.properties, "CONNACK", level)
        case Suback() | Unsuback():
            kind, place = KINDS[type(packet)], type(packet).__name__.upper()
            body = _id(packet.packet_id) + wire.write_properties(packet.properties, place, level)
            body += _reasons(packet, level)
        case Connect():
            kind, body = 1, _connect_body(packet, level)
        case Subscribe():
            kind, flags = 8, 2
            body = _id(packet.packet_id) + wire.write_properties(packet.properties, "SUBSCRIBE", level)
            body += b"".join(wire.text(item.topic) + _options(item) for item in packet.filters)
        case Unsubscribe():
            kind, flags = 10, 2
            body = _id(packet.packet_id) + wire.write_properties(packet.properties, "UNSUBSCRIBE", level)
            body += b"".join(map(wire.text, packet.filters))
    return bytes((kind << 4 | flags,)) + wire.varint(len(body)) + body


def _id(packet_id: int | None) -> bytes:
    return b"" if packet_id is None else packet_id.to_bytes(2)


def _ending(packet: Puback | Pubrec | Pubrel | Pubcomp | Disconnect | Auth, level: int) -> bytes:
    if level == MQTT_3_1_1:
        return wire.write_properties(packet.properties, type(packet).__name__.upper(), level)
    if packet.properties:
        return bytes((packet.reason,)) + wire.write_properties(packet.properties, type(packet).__name__.upper())
    return bytes((packet.reason,)) if packet.reason else b""


def _reasons(packet: Suback | Unsuback, level: int) -> bytes:
    if level == MQTT_5:
        return bytes(packet.reasons)
    return bytes(min(reason, 0x80) for reason in packet.reasons) if isinstance(packet, Suback) else b""


def _options(item: Filter) -> bytes:
    return bytes((item.qos | item.no_local << 2 | item.retain_as_published << 3 | item.retain_handling << 4,))


def _connect_body(packet: Connect, level: int) -> bytes:
    flags = packet.clean_start << 1 | (packet.username is not None) << 7 | (packet.password is not None) << 6
    tail = wire.text(packet.client_id)
    if packet.will is not None:
        will = packet.will
        flags |= 0x04 | will.qos << 3 | will.retain << 5
        tail += wire.write_properties(will.properties, "will", level)
        tail += wire.text(will.topic) + wire.binary(will.payload)
    if packet.username is not None:
        tail += wire.text(packet.username)
    if packet.password is not None:
        tail += wire.binary(packet.password)
    head = wire.text("MQTT") + bytes((level, flags)) + packet.keep_alive.to_bytes(2)
    return head + wire.write_properties(packet.properties, "CONNECT", level) + tail

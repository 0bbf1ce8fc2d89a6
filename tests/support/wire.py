"""The data types and the properties of MQTT 5 (sections 1.5 and 2.2.2), strict in both directions.

MQTT 3.1.1 (protocol level 4) has the same data types, and no properties.
"""

from collections.abc import Mapping

Pairs = tuple[tuple[str, str], ...]
PropertyValue = int | str | bytes | Pairs | tuple[int, ...]
Properties = Mapping[str, PropertyValue]
"""By name (`receive_maximum`). User properties are pairs; subscription identifiers a tuple."""

MQTT_3_1_1, MQTT_5 = 4, 5
"""Protocol levels (section 3.1.2.2)."""

MALFORMED = 0x81
PROTOCOL_ERROR = 0x82
UNSUPPORTED_VERSION = 0x84
MAX_VARINT = 268_435_455


class MalformedError(Exception):
    """Bytes that are no packet; `code` is the reason code that section 4.13 of MQTT 5 gives them."""

    def __init__(self, what: str, code: int = MALFORMED) -> None:
        super().__init__(f"{what} (0x{code:02x})")
        self.code = code


class VersionError(MalformedError):
    """A CONNECT of another protocol, or of a level that the reader does not know."""

    def __init__(self, name: str, level: int) -> None:
        super().__init__(f"protocol {name!r} version {level}", UNSUPPORTED_VERSION)
        self.level = level


class Reader:
    """Takes one packet's body apart, and never reads past its end."""

    __slots__ = ("at", "data", "end", "level")

    def __init__(self, data: bytes, level: int = MQTT_5) -> None:
        self.level = level
        self.data = data
        self.at = 0
        self.end = len(data)

    def take(self, count: int) -> bytes:
        start = self.at
        self.at = start + count
        if self.at > self.end:
            raise MalformedError(f"{count} bytes wanted at {start}, {self.end - start} are left")
        return self.data[start : self.at]

    def byte(self) -> int:
        return self.take(1)[0]

    def two(self) -> int:
        return int.from_bytes(self.take(2))

    def four(self) -> int:
        return int.from_bytes(self.take(4))

    def varint(self) -> int:
        """Section 1.5.5; [MQTT-1.5.5-1] asks for the shortest form."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 21:
                raise MalformedError("a variable byte integer of more than four bytes")
        if byte == 0 and shift:
            raise MalformedError("a variable byte integer longer than needed")
        return value

    def binary(self) -> bytes:
        return self.take(self.two())

    def text(self) -> str:
        """Section 1.5.4: no surrogates [MQTT-1.5.4-1], no U+0000 [MQTT-1.5.4-2]."""
        raw = self.binary()
        try:
            text = raw.decode()
        except UnicodeDecodeError as exc:
            raise MalformedError(f"not UTF-8: {raw[:40]!r}") from exc
        if "\0" in text:
            raise MalformedError(f"U+0000 in the string {text[:40]!r}")
        return text

    def packet_id(self) -> int:
        value = self.two()
        if value == 0:
            raise MalformedError("packet identifier 0", PROTOCOL_ERROR)
        return value

    def rest(self) -> bytes:
        return self.take(self.end - self.at)

    def finish(self) -> None:
        if self.at != self.end:
            raise MalformedError(f"{self.end - self.at} trailing bytes")


def varint(value: int) -> bytes:
    if not 0 <= value <= MAX_VARINT:
        raise ValueError(f"{value} does not fit a variable byte integer")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def binary(value: bytes) -> bytes:
    return len(value).to_bytes(2) + value


def text(value: str) -> bytes:
    return binary(value.encode())


PUBLISH, WILL, CONNECT, CONNACK, SUBSCRIBE, UNSUBSCRIBE, DISCONNECT, AUTH = (
    "PUBLISH", "will", "CONNECT", "CONNACK", "SUBSCRIBE", "UNSUBSCRIBE", "DISCONNECT", "AUTH",
)  # fmt: skip
MESSAGE = frozenset({PUBLISH, WILL})
ANSWERS = frozenset({CONNACK, "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBACK", "UNSUBACK", DISCONNECT, AUTH})
EVERYWHERE = ANSWERS | MESSAGE | {CONNECT, SUBSCRIBE, UNSUBSCRIBE}
HELLO = frozenset({CONNECT, CONNACK})

# Section 2.2.2.2, table 2-4: identifier, name, type, where it may stand.
TABLE: dict[int, tuple[str, str, frozenset[str]]] = {
    0x01: ("payload_format_indicator", "flag", MESSAGE),
    0x02: ("message_expiry_interval", "four", MESSAGE),
    0x03: ("content_type", "text", MESSAGE),
    0x08: ("response_topic", "text", MESSAGE),
    0x09: ("correlation_data", "binary", MESSAGE),
    0x0B: ("subscription_identifier", "varint", frozenset({PUBLISH, SUBSCRIBE})),
    0x11: ("session_expiry_interval", "four", HELLO | {DISCONNECT}),
    0x12: ("assigned_client_identifier", "text", frozenset({CONNACK})),
    0x13: ("server_keep_alive", "two", frozenset({CONNACK})),
    0x15: ("authentication_method", "text", HELLO | {AUTH}),
    0x16: ("authentication_data", "binary", HELLO | {AUTH}),
    0x17: ("request_problem_information", "flag", frozenset({CONNECT})),
    0x18: ("will_delay_interval", "four", frozenset({WILL})),
    0x19: ("request_response_information", "flag", frozenset({CONNECT})),
    0x1A: ("response_information", "text", frozenset({CONNACK})),
    0x1C: ("server_reference", "text", frozenset({CONNACK, DISCONNECT})),
    0x1F: ("reason_string", "text", ANSWERS),
    0x21: ("receive_maximum", "two", HELLO),
    0x22: ("topic_alias_maximum", "two", HELLO),
    0x23: ("topic_alias", "two", frozenset({PUBLISH})),
    0x24: ("maximum_qos", "flag", frozenset({CONNACK})),
    0x25: ("retain_available", "flag", frozenset({CONNACK})),
    0x26: ("user_property", "pair", EVERYWHERE),
    0x27: ("maximum_packet_size", "four", HELLO),
    0x28: ("wildcard_subscription_available", "flag", frozenset({CONNACK})),
    0x29: ("subscription_identifier_available", "flag", frozenset({CONNACK})),
    0x2A: ("shared_subscription_available", "flag", frozenset({CONNACK})),
}
BY_NAME = {name: (identifier, kind, places) for identifier, (name, kind, places) in TABLE.items()}
NEVER_ZERO = frozenset({"subscription_identifier", "receive_maximum", "maximum_packet_size", "topic_alias"})
SEVERAL = frozenset({"user_property", "subscription_identifier"})
WIDTH = {"flag": 1, "two": 2, "four": 4}


def read_properties(reader: Reader, place: str) -> dict[str, PropertyValue]:
    if reader.level == MQTT_3_1_1:
        return {}
    inner = Reader(reader.take(reader.varint()))
    found: dict[str, PropertyValue] = {}
    while inner.at < inner.end:
        identifier = inner.varint()
        if identifier not in TABLE:
            raise MalformedError(f"unknown property 0x{identifier:02x}")
        name, kind, places = TABLE[identifier]
        if place not in places:
            raise MalformedError(f"{name} in {place}", PROTOCOL_ERROR)
        repeatable = name == "user_property" or (name == "subscription_identifier" and place == PUBLISH)
        if name in found and not repeatable:
            raise MalformedError(f"{name} stands twice", PROTOCOL_ERROR)
        value = _read_one(inner, name, kind)
        if name in SEVERAL:
            earlier = found.get(name, ())
            assert isinstance(earlier, tuple)
            found[name] = (*earlier, value)
        else:
            found[name] = value  # type: ignore[assignment]
    if "authentication_data" in found and "authentication_method" not in found:
        raise MalformedError("authentication_data without authentication_method", PROTOCOL_ERROR)
    return found


def _read_one(reader: Reader, name: str, kind: str) -> int | str | bytes | tuple[str, str]:
    if kind == "pair":
        return reader.text(), reader.text()
    value: int | str | bytes = getattr(reader, "byte" if kind == "flag" else kind)()
    if kind == "flag" and value not in {0, 1}:
        raise MalformedError(f"{name} is {value!r}", PROTOCOL_ERROR)
    if value == 0 and name in NEVER_ZERO:
        raise MalformedError(f"{name} is 0", PROTOCOL_ERROR)
    return value


def write_properties(properties: Properties, place: str, level: int = MQTT_5) -> bytes:
    """Encode what may stand in `place`; values are not judged, so that a test can send nonsense on purpose."""
    if level == MQTT_3_1_1:
        if properties:
            raise ValueError(f"no properties in MQTT 3.1.1: {properties}")
        return b""
    out = bytearray()
    for name, value in properties.items():
        if name not in BY_NAME or place not in BY_NAME[name][2]:
            raise ValueError(f"no property {name} in {place}")
        identifier, kind, _ = BY_NAME[name]
        for single in value if isinstance(value, tuple) else (value,):
            out.append(identifier)
            out += _one(kind, single)
    return varint(len(out)) + out


def _one(kind: str, value: object) -> bytes:
    match kind, value:
        case (("flag" | "two" | "four"), int()):
            return value.to_bytes(WIDTH[kind])
        case "varint", int():
            return varint(value)
        case "text", str():
            return text(value)
        case "binary", bytes():
            return binary(value)
        case "pair", (str() as key, str() as worth):
            return text(key) + text(worth)
    raise ValueError(f"{value!r} is no {kind}")

"""Reason codes of MQTT 5 (section 2.4) and what follows from each; return codes of MQTT 3.1.1 are read as such."""

from enum import Enum

GRANTED_BELOW = 0x80
"""A reason code below this one is a success (section 2.4)."""

NAMES = {
    0x00: "success",
    0x04: "disconnect with will message",
    0x10: "no matching subscribers",
    0x80: "unspecified error",
    0x81: "malformed packet",
    0x82: "protocol error",
    0x83: "implementation specific error",
    0x84: "unsupported protocol version",
    0x85: "client identifier not valid",
    0x86: "bad user name or password",
    0x87: "not authorized",
    0x88: "server unavailable",
    0x89: "server busy",
    0x8A: "banned",
    0x8B: "server shutting down",
    0x8C: "bad authentication method",
    0x8D: "keep alive timeout",
    0x8E: "session taken over",
    0x8F: "topic filter invalid",
    0x90: "topic name invalid",
    0x91: "packet identifier in use",
    0x92: "packet identifier not found",
    0x93: "receive maximum exceeded",
    0x94: "topic alias invalid",
    0x95: "packet too large",
    0x96: "message rate too high",
    0x97: "quota exceeded",
    0x98: "administrative action",
    0x99: "payload format invalid",
    0x9A: "retain not supported",
    0x9B: "qos not supported",
    0x9C: "use another server",
    0x9D: "server moved",
    0x9E: "shared subscriptions not supported",
    0x9F: "connection rate exceeded",
    0xA0: "maximum connect time",
    0xA1: "subscription identifiers not supported",
    0xA2: "wildcard subscriptions not supported",
}
"""Section 2.4, table 2-6."""


_RETURN_CODES = {
    1: (0x84, "unacceptable protocol version"),
    2: (0x85, "identifier rejected"),
    3: (0x88, "server unavailable"),
    4: (0x86, "bad user name or password"),
    5: (0x87, "not authorized"),
}
"""MQTT 3.1.1 section 3.2.2.3, table 3.1, each with the reason code that means the same."""

_UNSPECIFIED = 0x80


class Verdict(Enum):
    """What becomes of a record that the server answered."""

    DELIVERED = "delivered"
    LATER = "later"
    QUARANTINE = "quarantine"


_FOR_GOOD = frozenset(
    {
        0x87,  # 3.4.2.1: not authorized for this topic
        0x90,  # 3.4.2.1: the topic name is not accepted
        0x95,  # 2.4: larger than the server takes
        0x99,  # 3.4.2.1: the payload is not what it says it is
        0x9A,  # 2.4: retain not supported
        0x9B,  # 2.4: QoS not supported
    }
)

_BLAMES = frozenset(
    {
        0x81,  # 4.13: malformed packet
        0x82,  # 4.13: protocol error
        0x87,  # 3.14.2.1: not authorized, as brokers answer a PUBLISH that their rules deny
        0x90,  # 3.14.2.1: topic name invalid
        0x94,  # 3.14.2.1: topic alias invalid
        0x95,  # 3.14.2.1: packet too large
        0x99,  # 3.14.2.1: payload format invalid
        0x9A,  # 3.14.2.1: retain not supported
        0x9B,  # 3.14.2.1: QoS not supported
    }
)

_OF_THE_CONTENT = frozenset({0x95, 0x99})

_ELSEWHERE = frozenset(
    {
        0x9C,  # 4.11: use another server
        0x9D,  # 4.11: server moved
    }
)

RETAIN_NOT_SUPPORTED = 0x9A
QOS_NOT_SUPPORTED = 0x9B
"""3.2.2.2: what a server says where the will asks for more than it can do."""

TAKEN_OVER = 0x8E
"""3.14.2.1: another client has connected with the same client identifier."""

_PARK = frozenset(
    {
        0x84,  # 3.2.2.2: unsupported protocol version
        0x85,  # 3.2.2.2: client identifier not valid
        0x86,  # 3.2.2.2: bad user name or password
        0x87,  # 3.2.2.2: not authorized
        0x8A,  # 3.2.2.2: banned
        0x8C,  # 3.2.2.2: bad authentication method
    }
)


def describe(code: int) -> str:
    """Return the reason code as people look it up: `0x97 quota exceeded`."""
    return f"0x{code:02X} {NAMES.get(code, 'unknown reason code')}"


def describe_return_code(code: int) -> str:
    """Return the return code of a CONNACK of MQTT 3.1.1 as people look it up: `return code 5, not authorized`."""
    _, name = _RETURN_CODES.get(code, (0, "which MQTT 3.1.1 does not know"))
    return f"return code {code}, {name}"


def of_return_code(code: int) -> int:
    """Return the reason code that means the same as a return code of MQTT 3.1.1, which is below 0x80."""
    reason_code, _ = _RETURN_CODES.get(code, (_UNSPECIFIED, ""))
    return reason_code


def verdict(code: int) -> Verdict:
    """Return what a PUBACK's, PUBREC's or PUBCOMP's reason code (section 3.4.2.1) means for the record.

    A code that the standard does not list is a refusal that may pass: later.
    """
    if code < GRANTED_BELOW:
        return Verdict.DELIVERED
    return Verdict.QUARANTINE if code in _FOR_GOOD else Verdict.LATER


def needs_a_person(code: int) -> bool:
    """Tell whether a CONNACK's reason code (section 3.2.2.2) will not change by trying again soon."""
    return code in _PARK


def refers_elsewhere(code: int) -> bool:
    """Tell whether a CONNACK or DISCONNECT sends the client to another server (section 4.11)."""
    return code in _ELSEWHERE


def blames_a_packet(code: int) -> bool:
    """Tell whether a DISCONNECT's reason code (section 3.14.2.1) says that something this side sent is at fault."""
    return code in _BLAMES


def is_of_the_content(code: int) -> bool:
    """Tell whether the payload is at fault, so that a part of it may be taken where the whole is not."""
    return code in _OF_THE_CONTENT

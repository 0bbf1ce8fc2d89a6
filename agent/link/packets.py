"""PUBLISH packets (MQTT 5 section 3.3): the one packet that is sent often enough to be worth an encoder of our own.

Its properties come from gmqtt's codec. The tests hold each packet against what gmqtt builds. A session chooses its
encoder once, so that no packet asks for the version.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from gmqtt.mqtt.constants import MQTTv50, MQTTv311
from gmqtt.mqtt.package import PackageFactory
from gmqtt.mqtt.utils import pack_variable_byte_integer

from agent.model import Inbound, Message, Version

_PUBLISH = 0x30
_DUP = 0x08


class Publish(Protocol):
    """Returns a PUBLISH packet; `packet_id` and `dup` are not looked at for QoS 0."""

    def __call__(self, message: Message, packet_id: int, *, dup: bool) -> bytes: ...  # noqa: D102


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """How one version of MQTT writes its packets. `level` stands in CONNECT (section 3.1.2.2).

    `size` is that of a PUBLISH packet in bytes, as Maximum Packet Size counts it (section 3.1.2.11.4). `pubrel` takes
    the packet identifier and a reason code.
    """

    level: int
    publish: Publish
    size: Callable[[Message], int]
    pubrel: Callable[[int, int], bytes]


def encoder(version: Version) -> Encoder:
    """Return the encoder of this version."""
    return _ENCODERS[version]


# MQTT 5.


def publish(message: Message, packet_id: int, *, dup: bool) -> bytes:
    """Return the packet; `packet_id` and `dup` are not looked at for QoS 0."""
    topic = _topic(message.topic)
    properties = _properties_of(message)
    first = _PUBLISH | message.qos << 1 | message.retain
    if message.qos == 0:
        length = len(topic) + len(properties) + len(message.payload)
        return b"".join((_header(first, length), topic, properties, message.payload))
    if dup:
        first |= _DUP
    length = len(topic) + 2 + len(properties) + len(message.payload)
    return b"".join((_header(first, length), topic, packet_id.to_bytes(2, "big"), properties, message.payload))


def size(message: Message) -> int:
    """Return the packet's size in bytes."""
    length = len(_topic(message.topic)) + len(_properties_of(message)) + len(message.payload)
    if message.qos > 0:
        length += 2
    return len(_header(_PUBLISH, length)) + length


def pubrel(packet_id: int, reason_code: int) -> bytes:
    """Return a PUBREL packet (section 3.6); its reason code is left out where it is 0."""
    if reason_code == 0:
        return b"\x62\x02" + packet_id.to_bytes(2, "big")
    return b"\x62\x03" + packet_id.to_bytes(2, "big") + bytes([reason_code])


# MQTT 3.1.1, section 3.3: without properties; section 3.6: without a reason code.


def publish_311(message: Message, packet_id: int, *, dup: bool) -> bytes:
    """Return the packet; `packet_id` and `dup` are not looked at for QoS 0."""
    topic = _topic(message.topic)
    first = _PUBLISH | message.qos << 1 | message.retain
    if message.qos == 0:
        return b"".join((_header(first, len(topic) + len(message.payload)), topic, message.payload))
    if dup:
        first |= _DUP
    length = len(topic) + 2 + len(message.payload)
    return b"".join((_header(first, length), topic, packet_id.to_bytes(2, "big"), message.payload))


def size_311(message: Message) -> int:
    """Return the packet's size in bytes."""
    length = len(_topic(message.topic)) + len(message.payload)
    if message.qos > 0:
        length += 2
    return len(_header(_PUBLISH, length)) + length


def pubrel_311(packet_id: int, _reason_code: int) -> bytes:
    """Return a PUBREL packet."""
    return b"\x62\x02" + packet_id.to_bytes(2, "big")


# What is received.


def received(topic: str, payload: bytes, qos: int, properties: Mapping[str, Any], packet_id: int | None) -> Inbound:
    """Return a PUBLISH that gmqtt has parsed: each of its properties is a list, but for the flags."""

    def first(name: str) -> Any:  # noqa: ANN401  as the property is
        return properties.get(name, [None])[0]

    return Inbound(
        topic=topic,
        payload=payload,
        qos=qos,
        retain=bool(properties["retain"]),
        dup=bool(properties["dup"]),
        packet_id=packet_id,
        response_topic=first("response_topic"),
        correlation_data=first("correlation_data"),
        expiry=first("message_expiry_interval"),
    )


# What both are made of.


@lru_cache(maxsize=512)
def _topic(topic: str) -> bytes:
    encoded = topic.encode()
    return struct.pack("!H", len(encoded)) + encoded


def _properties_of(message: Message) -> bytes:
    if message.response_topic is None and message.correlation_data is None:
        return _plain_properties(message.content_type, message.expiry)
    return _properties(
        message_expiry_interval=message.expiry,
        content_type=message.content_type,
        response_topic=message.response_topic,
        correlation_data=message.correlation_data,
    )


@lru_cache(maxsize=512)
def _plain_properties(content_type: str | None, expiry: int | None) -> bytes:
    return _properties(message_expiry_interval=expiry, content_type=content_type)


def _properties(**properties: object) -> bytes:
    given = {name: value for name, value in properties.items() if value is not None}
    return bytes(PackageFactory._build_properties_data(given, MQTTv50))  # noqa: SLF001  the codec's own entry


@lru_cache(maxsize=2048)
def _header(first: int, length: int) -> bytes:
    return bytes((first,)) + bytes(pack_variable_byte_integer(length))


_ENCODERS = {
    Version.MQTT_5: Encoder(level=MQTTv50, publish=publish, size=size, pubrel=pubrel),
    Version.MQTT_3_1_1: Encoder(level=MQTTv311, publish=publish_311, size=size_311, pubrel=pubrel_311),
}

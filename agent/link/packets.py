"""PUBLISH packets (MQTT 5 section 3.3): the one packet that is sent often enough to be worth an encoder of our own.

Its properties come from gmqtt's codec. The tests hold each packet against what gmqtt builds.
"""

import struct
from functools import lru_cache

from gmqtt.mqtt.constants import MQTTv50
from gmqtt.mqtt.package import PackageFactory
from gmqtt.mqtt.utils import pack_variable_byte_integer

from agent.model import Message

_PUBLISH = 0x30
_DUP = 0x08


def publish(message: Message, packet_id: int, *, dup: bool) -> bytes:
    """Return the packet; `packet_id` and `dup` are not looked at for QoS 0."""
    topic = _topic(message.topic)
    properties = _properties(message.content_type, message.expiry)
    first = _PUBLISH | message.qos << 1 | message.retain
    if message.qos == 0:
        length = len(topic) + len(properties) + len(message.payload)
        return b"".join((_header(first, length), topic, properties, message.payload))
    if dup:
        first |= _DUP
    length = len(topic) + 2 + len(properties) + len(message.payload)
    return b"".join((_header(first, length), topic, packet_id.to_bytes(2, "big"), properties, message.payload))


def size(message: Message) -> int:
    """Return the packet's size in bytes, as Maximum Packet Size counts it (section 3.1.2.11.4)."""
    length = len(_topic(message.topic)) + len(_properties(message.content_type, message.expiry)) + len(message.payload)
    if message.qos > 0:
        length += 2
    return len(_header(_PUBLISH, length)) + length


@lru_cache(maxsize=512)
def _topic(topic: str) -> bytes:
    encoded = topic.encode()
    return struct.pack("!H", len(encoded)) + encoded


@lru_cache(maxsize=512)
def _properties(content_type: str | None, expiry: int | None) -> bytes:
    properties: dict[str, object] = {}
    if expiry is not None:
        properties["message_expiry_interval"] = expiry
    if content_type is not None:
        properties["content_type"] = content_type
    return bytes(PackageFactory._build_properties_data(properties, MQTTv50))  # noqa: SLF001  the codec's own entry


@lru_cache(maxsize=2048)
def _header(first: int, length: int) -> bytes:
    return bytes((first,)) + bytes(pack_variable_byte_integer(length))


def pubrel(packet_id: int, reason_code: int = 0) -> bytes:
    """Return a PUBREL packet (section 3.6); its reason code is left out where it is 0."""
    if reason_code == 0:
        return b"\x62\x02" + packet_id.to_bytes(2, "big")
    return b"\x62\x03" + packet_id.to_bytes(2, "big") + bytes([reason_code])

"""Our packets against those that gmqtt's codec builds."""

import gmqtt
import pytest
from gmqtt.mqtt.constants import MQTTCommands
from gmqtt.mqtt.package import CommandWithMidPacket, PublishPacket
from hypothesis import given
from hypothesis import strategies as st

from agent.link.packets import encoder
from agent.model import Message, Version


class FixedId:
    """Stands where gmqtt looks for its identifier source and protocol version."""

    def __init__(self, packet_id: int, level: int) -> None:
        self.packet_id = packet_id
        self.proto_ver = level
        self.id_generator = self

    def next_id(self) -> int:
        return self.packet_id


MESSAGES = st.builds(
    Message,
    topic=st.text(st.characters(blacklist_characters="\x00+#", blacklist_categories=("Cs",)), min_size=1, max_size=60),
    payload=st.binary(max_size=300) | st.just(b"x" * 20_000),
    qos=st.sampled_from([0, 1, 2]),
    retain=st.booleans(),
    expiry=st.none() | st.integers(0, 2**32 - 1),
    content_type=st.none() | st.just("application/json"),
    response_topic=st.none() | st.just("device/rover/desired"),
    correlation_data=st.none() | st.binary(min_size=1, max_size=32),
)


def test_the_levels_are_those_of_connect() -> None:
    assert {version: encoder(version).level for version in Version} == {Version.MQTT_5: 5, Version.MQTT_3_1_1: 4}


@pytest.mark.parametrize("version", Version)
@given(message=MESSAGES, packet_id=st.integers(1, 65_535), dup=st.booleans())
def test_a_packet_is_to_the_byte_what_gmqtt_builds(
    version: Version,
    message: Message,
    packet_id: int,
    dup: bool,  # noqa: FBT001
) -> None:
    packets = encoder(version)
    properties: dict[str, object] = {}
    if message.expiry is not None:
        properties["message_expiry_interval"] = message.expiry
    if message.content_type is not None:
        properties["content_type"] = message.content_type
    if message.response_topic is not None:
        properties["response_topic"] = message.response_topic
    if message.correlation_data is not None:
        properties["correlation_data"] = message.correlation_data
    theirs = gmqtt.Message(message.topic, message.payload, qos=message.qos, retain=message.retain, **properties)
    theirs.dup = dup and message.qos > 0
    _, expected = PublishPacket.build_package(theirs, FixedId(packet_id, packets.level))
    packet = packets.publish(message, packet_id, dup=dup)
    assert packet == bytes(expected)
    assert packets.size(message) == len(packet)


@pytest.mark.parametrize("version", Version)
@pytest.mark.parametrize("length", [0, 100, 127, 128, 16_383, 16_384, 2_097_151])
def test_the_size_is_right_at_each_step_of_the_remaining_length(version: Version, length: int) -> None:
    packets = encoder(version)
    message = Message(topic="t", payload=b"x" * length)
    assert packets.size(message) == len(packets.publish(message, 1, dup=False))


@pytest.mark.parametrize("reason_code", [0, 0x92])
def test_pubrel_has_a_reason_code_in_mqtt_5_alone(reason_code: int) -> None:
    theirs = CommandWithMidPacket.build_package(
        MQTTCommands.PUBREL | 2, 258, dup=False, reason_code=reason_code, proto_ver=4
    )
    assert encoder(Version.MQTT_3_1_1).pubrel(258, reason_code) == theirs
    five = encoder(Version.MQTT_5).pubrel(258, reason_code)
    assert five == (b"\x62\x03\x01\x02\x92" if reason_code else b"\x62\x02\x01\x02")

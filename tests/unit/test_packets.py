"""Our PUBLISH packets against those that gmqtt's codec builds."""

import gmqtt
import pytest
from gmqtt.mqtt.package import PublishPacket
from hypothesis import given
from hypothesis import strategies as st

from agent.link import packets
from agent.model import Message


class FixedId:
    """Stands where gmqtt looks for its identifier source and protocol version."""

    proto_ver = 5

    def __init__(self, packet_id: int) -> None:
        self.packet_id = packet_id
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
)


@given(message=MESSAGES, packet_id=st.integers(1, 65_535), dup=st.booleans())
def test_a_packet_is_to_the_byte_what_gmqtt_builds(message: Message, packet_id: int, dup: bool) -> None:  # noqa: FBT001
    properties: dict[str, object] = {}
    if message.expiry is not None:
        properties["message_expiry_interval"] = message.expiry
    if message.content_type is not None:
        properties["content_type"] = message.content_type
    theirs = gmqtt.Message(message.topic, message.payload, qos=message.qos, retain=message.retain, **properties)
    theirs.dup = dup and message.qos > 0
    _, expected = PublishPacket.build_package(theirs, FixedId(packet_id))
    packet = packets.publish(message, packet_id, dup=dup)
    assert packet == bytes(expected)
    assert packets.size(message) == len(packet)


@pytest.mark.parametrize("length", [0, 100, 127, 128, 16_383, 16_384, 2_097_151])
def test_the_size_is_right_at_each_step_of_the_remaining_length(length: int) -> None:
    message = Message(topic="t", payload=b"x" * length)
    assert packets.size(message) == len(packets.publish(message, 1, dup=False))

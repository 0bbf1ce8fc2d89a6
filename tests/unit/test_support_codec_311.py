"""The codec of the tests at protocol level 4, against the bytes of the MQTT 3.1.1 standard."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.codec import MalformedError, Stream, encode
from tests.support.packets import (
    Connack,
    Connect,
    Disconnect,
    Filter,
    Packet,
    Pingreq,
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
from tests.support.wire import MQTT_3_1_1, VersionError
from tests.unit.test_support_codec import bytes_of

EXAMPLES: dict[str, tuple[str, Packet]] = {
    "CONNECT, figure 3.6": (
        "10 19 0004 'MQTT' 04 CE 000A 0001 'r' 0001 'w' 0001 'l' 0001 'u' 0001 'p'",
        Connect(
            client_id="r",
            clean_start=True,
            keep_alive=10,
            will=Will(topic="w", payload=b"l", qos=1),
            username="u",
            password=b"p",
        ),
    ),
    "CONNACK": ("20 02 01 00", Connack(session_present=True)),
    "CONNACK, refused": ("20 02 00 05", Connack(reason=5)),
    "PUBLISH, figure 3.11": ("32 07 0003 'a/b' 000A", Publish(topic="a/b", qos=1, packet_id=10)),
    "PUBLISH, QoS 0": ("30 05 0001 't' 0001", Publish(topic="t", payload=b"\x00\x01")),
    "PUBACK": ("40 02 000A", Puback(packet_id=10)),
    "PUBREC": ("50 02 000A", Pubrec(packet_id=10)),
    "PUBREL": ("62 02 000A", Pubrel(packet_id=10)),
    "PUBCOMP": ("70 02 000A", Pubcomp(packet_id=10)),
    "SUBSCRIBE, figure 3.23": (
        "82 0E 000A 0003 'a/b' 01 0003 'c/d' 02",
        Subscribe(packet_id=10, filters=(Filter(topic="a/b", qos=1), Filter(topic="c/d", qos=2))),
    ),
    "SUBACK, figure 3.26": ("90 05 000A 00 02 80", Suback(packet_id=10, reasons=(0, 2, 0x80))),
    "UNSUBSCRIBE": ("A2 07 000A 0003 'a/b'", Unsubscribe(packet_id=10, filters=("a/b",))),
    "UNSUBACK": ("B0 02 000A", Unsuback(packet_id=10, reasons=())),
    "PINGREQ": ("C0 00", Pingreq()),
    "DISCONNECT": ("E0 00", Disconnect()),
}


@pytest.mark.parametrize(("raw", "packet"), EXAMPLES.values(), ids=EXAMPLES)
def test_packets_are_those_of_the_standard_in_both_directions(raw: str, packet: Packet) -> None:
    data = bytes_of(raw)
    assert encode(packet, MQTT_3_1_1) == data
    assert list(Stream(MQTT_3_1_1).feed(data)) == [(packet, len(data))]


MALFORMED = {
    "a reason code in PUBACK": "40 03 0001 00",
    "a reason code in PUBREL": "62 03 0001 92",
    "a reason code in DISCONNECT": "E0 01 04",
    "properties in CONNACK": "20 03 00 00 00",
    "a return code that CONNACK has not": "20 02 00 06",
    "a reason code of MQTT 5 in CONNACK": "20 02 00 86",
    "a reason code of MQTT 5 in SUBACK": "90 03 0001 87",
    "a payload in UNSUBACK": "B0 03 0001 00",
    "Retain As Published, 3.8.3-4": "82 06 0001 0001 'a' 09",
    "No Local, 3.8.3-4": "82 06 0001 0001 'a' 05",
    "properties in SUBSCRIBE": "82 07 0001 00 0001 'a' 01",
    "a password without a user name, 3.1.2-22": "10 10 0004 'MQTT' 04 42 0000 0001 'r' 0001 'p'",
    "properties in CONNECT": "10 0E 0004 'MQTT' 04 02 0000 00 0001 'r'",
    "AUTH": "F0 00",
}


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED)
def test_what_only_mqtt_5_knows_is_malformed(raw: str) -> None:
    with pytest.raises(MalformedError):
        list(Stream(MQTT_3_1_1).feed(bytes_of(raw)))


def test_another_level_is_told() -> None:
    with pytest.raises(VersionError) as raised:
        list(Stream(MQTT_3_1_1).feed(encode(Connect(client_id="r"))))
    assert raised.value.level == 5


def test_properties_are_not_written() -> None:
    with pytest.raises(ValueError, match=r"no properties in MQTT 3\.1\.1"):
        encode(Publish(topic="t", properties={"content_type": "a"}), MQTT_3_1_1)


@given(
    payload=st.binary(max_size=300), topic=st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1)
)
def test_a_payload_is_taken_to_its_first_byte(payload: bytes, topic: str) -> None:
    packet = Publish(topic=topic, payload=payload, qos=2, packet_id=7, dup=True, retain=True)
    ((read, _),) = Stream(MQTT_3_1_1).feed(encode(packet, MQTT_3_1_1))
    assert read == packet

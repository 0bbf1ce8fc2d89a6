"""The codec of the tests against the bytes of the MQTT 5 standard."""

from dataclasses import FrozenInstanceError
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import wire
from tests.support.codec import ACKS, ANSWERS, CONNACK_REASONS, ENDS, MalformedError, Stream, encode
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
)
from tests.support.wire import Properties


def bytes_of(text: str) -> bytes:
    """Hexadecimal, with a string of the standard's examples in quotes: `0003 'a/b'`."""
    parts = text.split("'")
    return b"".join(part.encode() if index % 2 else bytes.fromhex(part) for index, part in enumerate(parts))


def only(data: bytes) -> Packet:
    ((packet, size),) = Stream().feed(data)
    assert size == len(data)
    return packet


# Section 1.5: data types.


@pytest.mark.parametrize(
    ("value", "raw"),
    [
        (0, "00"),
        (127, "7F"),
        (128, "80 01"),
        (16_383, "FF 7F"),
        (16_384, "80 80 01"),
        (2_097_151, "FF FF 7F"),
        (2_097_152, "80 80 80 01"),
        (268_435_455, "FF FF FF 7F"),
    ],
)
def test_variable_byte_integers_are_those_of_table_1_1(value: int, raw: str) -> None:
    assert wire.varint(value) == bytes.fromhex(raw)
    assert wire.Reader(bytes.fromhex(raw)).varint() == value


@pytest.mark.parametrize("raw", ["80 00", "80 80 00", "FF FF FF FF 7F", "80 80 80 80 01", "80"])
def test_variable_byte_integers_that_are_too_long_or_cut_are_malformed_1_5_5(raw: str) -> None:
    with pytest.raises(MalformedError):
        wire.Reader(bytes.fromhex(raw)).varint()


def test_a_variable_byte_integer_has_a_largest_value() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        wire.varint(wire.MAX_VARINT + 1)


def test_the_utf8_string_of_figure_1_2() -> None:
    raw = bytes.fromhex("0005 41 F0 AA 9B 94")
    assert wire.text("A\U0002a6d4") == raw
    assert wire.Reader(raw).text() == "A\U0002a6d4"


@pytest.mark.parametrize(
    "raw",
    ["0003 ED A0 80", "0001 00", "0002 C3 28", "0002 C0 80", "0003 41", "00"],
    ids=["surrogate 1.5.4-1", "U+0000 1.5.4-2", "bad continuation", "overlong", "cut", "cut length"],
)
def test_strings_that_are_not_utf8_are_malformed(raw: str) -> None:
    with pytest.raises(MalformedError):
        wire.Reader(bytes.fromhex(raw)).text()


def test_a_byte_order_mark_is_a_character_1_5_4_3() -> None:
    assert wire.Reader(bytes.fromhex("0003 EF BB BF")).text() == "\ufeff"


# Chapter 3: packets and their bytes.

VECTORS: dict[str, tuple[str, Packet]] = {
    "CONNECT, figure 3-6": (
        "10 2B 0004 'MQTT' 05 CE 000A 05 11 0000000A 0001 'c' 00 0003 'w/t' 0003 'bye' 0003 'ann' 0006 'secret'",
        Connect(
            client_id="c",
            clean_start=True,
            keep_alive=10,
            will=Will(topic="w/t", payload=b"bye", qos=1),
            username="ann",
            password=b"secret",
            properties={"session_expiry_interval": 10},
        ),
    ),
    "CONNECT, the shortest": ("10 0D 0004 'MQTT' 05 00 0000 00 0000", Connect(client_id="")),
    "CONNECT with a will's properties, 3.1.3.2": (
        "10 21 0004 'MQTT' 05 34 0000 00 0000 0C 18 00000005 02 0000003C 01 01 0001 't' 0002 'up'",
        Connect(
            client_id="",
            will=Will(
                topic="t",
                payload=b"up",
                qos=2,
                retain=True,
                properties={
                    "will_delay_interval": 5,
                    "message_expiry_interval": 60,
                    "payload_format_indicator": 1,
                },
            ),
        ),
    ),
    "CONNACK with limits, 3.2.2.3": (
        "20 12 01 00 0F 21 0014 27 00100000 24 01 25 00 13 003C",
        Connack(
            session_present=True,
            properties={
                "receive_maximum": 20,
                "maximum_packet_size": 1_048_576,
                "maximum_qos": 1,
                "retain_available": 0,
                "server_keep_alive": 60,
            },
        ),
    ),
    "CONNACK, not authorized": ("20 03 00 87 00", Connack(reason=0x87)),
    "PUBLISH, figure 3-9": ("32 08 0003 'a/b' 000A 00", Publish(topic="a/b", qos=1, packet_id=10)),
    "PUBLISH with all flags": (
        "3D 08 0001 't' 0001 00 'hi'",
        Publish(topic="t", payload=b"hi", qos=2, dup=True, retain=True, packet_id=1),
    ),
    "PUBLISH at QoS 0, 2.2.1-2": ("30 05 0001 't' 00 'x'", Publish(topic="t", payload=b"x")),
    "PUBLISH with properties, 3.3.2.3": (
        (
            "30 28 0001 't' 24 01 01 02 0000000A 03 0001 'c' 08 0001 'r' 09 0002 0001 23 0003"
            "26 0001 'k' 0001 'v' 26 0000 0001 'v'"
        ),
        Publish(
            topic="t",
            properties={
                "payload_format_indicator": 1,
                "message_expiry_interval": 10,
                "content_type": "c",
                "response_topic": "r",
                "correlation_data": b"\x00\x01",
                "topic_alias": 3,
                "user_property": (("k", "v"), ("", "v")),
            },
        ),
    ),
    "PUBLISH of two subscriptions, 3.3.2.3.8": (
        "30 08 0001 't' 04 0B 01 0B 02",
        Publish(topic="t", properties={"subscription_identifier": (1, 2)}),
    ),
    "PUBACK without reason code, 3.4.2.1": ("40 02 000A", Puback(packet_id=10)),
    "PUBACK without property length, 3.4.2.2.1": ("40 03 000A 10", Puback(packet_id=10, reason=0x10)),
    "PUBACK with a reason string": (
        "40 09 000A 97 05 1F 0002 'no'",
        Puback(packet_id=10, reason=0x97, properties={"reason_string": "no"}),
    ),
    "PUBREC": ("50 02 000A", Pubrec(packet_id=10)),
    "PUBREL, 3.6.1-1": ("62 02 000A", Pubrel(packet_id=10)),
    "PUBCOMP": ("70 03 000A 92", Pubcomp(packet_id=10, reason=0x92)),
    "SUBSCRIBE, figures 3-20 and 3-22": (
        "82 0F 000A 00 0003 'a/b' 01 0003 'c/d' 02",
        Subscribe(packet_id=10, filters=(Filter(topic="a/b", qos=1), Filter(topic="c/d", qos=2))),
    ),
    "SUBSCRIBE with all options, 3.8.3.1": (
        "82 09 0001 02 0B 05 0001 '#' 2D",
        Subscribe(
            packet_id=1,
            filters=(Filter(topic="#", qos=1, no_local=True, retain_as_published=True, retain_handling=2),),
            properties={"subscription_identifier": (5,)},
        ),
    ),
    "SUBACK": ("90 05 000A 00 01 80", Suback(packet_id=10, reasons=(1, 0x80))),
    "UNSUBSCRIBE, figure 3-30": (
        "A2 0D 000A 00 0003 'a/b' 0003 'c/d'",
        Unsubscribe(packet_id=10, filters=("a/b", "c/d")),
    ),
    "UNSUBACK": ("B0 05 000A 00 00 11", Unsuback(packet_id=10, reasons=(0, 0x11))),
    "PINGREQ, 3.12": ("C0 00", Pingreq()),
    "PINGRESP, 3.13": ("D0 00", Pingresp()),
    "DISCONNECT without reason code, 3.14.2.1": ("E0 00", Disconnect()),
    "DISCONNECT without properties": ("E0 01 8E", Disconnect(reason=0x8E)),
    "DISCONNECT, figure 3-24": (
        "E0 07 00 05 11 00000000",
        Disconnect(properties={"session_expiry_interval": 0}),
    ),
    "AUTH": (
        "F0 06 18 04 15 0001 'm'",
        Auth(reason=0x18, properties={"authentication_method": "m"}),
    ),
}


@pytest.mark.parametrize(("raw", "packet"), VECTORS.values(), ids=VECTORS)
def test_a_packet_is_these_bytes(raw: str, packet: Packet) -> None:
    assert encode(packet).hex(" ") == bytes_of(raw).hex(" ")
    assert only(bytes_of(raw)) == packet


@pytest.mark.parametrize(
    ("raw", "packet"),
    [
        ("40 04 000A 00 00", Puback(packet_id=10)),
        ("E0 02 00 00", Disconnect()),
        ("40 03 000A 00", Puback(packet_id=10)),
    ],
)
def test_what_may_be_left_out_may_be_there_too(raw: str, packet: Packet) -> None:
    assert only(bytes_of(raw)) == packet


MALFORMED: dict[str, str] = {
    "packet type 0": "00 00",
    "flags of PUBACK, 2.1.3-1": "41 02 0001",
    "flags of PUBREL, 3.6.1-1": "60 02 0001",
    "flags of SUBSCRIBE, 3.8.1-1": "80 06 0001 00 0001 'a'",
    "flags of UNSUBSCRIBE, 3.10.1-1": "A0 06 0001 00 0001 'a'",
    "flags of PINGREQ": "C1 00",
    "flags of DISCONNECT, 3.14.1-1": "E2 00",
    "remaining length of five bytes, 2.1.4": "30 FF FF FF FF 01",
    "remaining length longer than needed": "C0 80 00",
    "trailing bytes in PINGREQ": "C0 01 00",
    "trailing bytes in PUBACK": "40 05 0001 00 00 00",
    "trailing bytes in CONNECT": "10 0E 0004 'MQTT' 05 00 0000 00 0000 00",
    "QoS 3, 3.3.1-4": "36 06 0001 't' 0001 00",
    "packet identifier 0 in PUBLISH, 2.2.1-3": "32 06 0001 't' 0000 00",
    "packet identifier 0 in PUBACK": "40 02 0000",
    "packet identifier 0 in SUBSCRIBE": "82 07 0000 00 0001 'a' 00",
    "no property length, 2.2.2-1": "30 03 0001 't'",
    "properties that end beyond the packet": "30 05 0001 't' 05 01",
    "a property that is cut": "30 07 0001 't' 03 02 0000",
    "an unknown property, 2.2.2.2": "30 06 0001 't' 02 7E 00",
    "CONNACK's property in PUBLISH": "30 07 0001 't' 03 21 0001",
    "a property twice": "30 08 0001 't' 04 01 00 01 00",
    "payload format 2": "30 06 0001 't' 02 01 02",
    "topic alias 0, 3.3.2-8": "30 07 0001 't' 03 23 0000",
    "subscription identifier 0": "30 06 0001 't' 02 0B 00",
    "Receive Maximum 0": "20 06 00 00 03 21 0000",
    "Maximum QoS 2": "20 05 00 00 02 24 02",
    "Maximum Packet Size 0": "20 08 00 00 05 27 00000000",
    "two subscription identifiers in SUBSCRIBE": "82 0B 0001 04 0B 01 0B 02 0001 'a' 00",
    "authentication data alone": "F0 06 18 04 16 0001 00",
    "a topic that is not UTF-8": "30 05 0002 C328 00",
    "a reason string that is not UTF-8": "40 09 000A 97 05 1F 0002 FFFF",
    "a reason code that PUBACK has not": "40 03 0001 92",
    "a reason code that DISCONNECT has not": "E0 01 03",
    "a reason code that CONNACK has not": "20 03 00 01 00",
    "a reason code that SUBACK has not": "90 04 0001 00 03",
    "CONNACK's reserved flags, 3.2.2-1": "20 03 02 00 00",
    "Session Present in a refusal, 3.2.2-6": "20 03 01 87 00",
    "the reserved CONNECT flag, 3.1.2-3": "10 0D 0004 'MQTT' 05 01 0000 00 0000",
    "will QoS without a will": "10 0D 0004 'MQTT' 05 08 0000 00 0000",
    "will retain without a will": "10 0D 0004 'MQTT' 05 20 0000 00 0000",
    "will QoS 3": "10 12 0004 'MQTT' 05 1C 0000 00 0000 00 0001 't' 0000",
    "a will that is missing": "10 0D 0004 'MQTT' 05 04 0000 00 0000",
    "a user name that is missing": "10 0D 0004 'MQTT' 05 80 0000 00 0000",
    "another protocol, 3.1.2-1": "10 0D 0004 'MQTX' 05 00 0000 00 0000",
    "MQTT 3.1.1": "10 0C 0004 'MQTT' 04 00 0000 0000",
    "SUBSCRIBE without a filter, 3.8.3-2": "82 03 0001 00",
    "UNSUBSCRIBE without a filter, 3.10.3-2": "A2 03 0001 00",
    "reserved subscription options, 3.8.3-5": "82 07 0001 00 0001 'a' 40",
    "subscription at QoS 3": "82 07 0001 00 0001 'a' 03",
    "retain handling 3": "82 07 0001 00 0001 'a' 30",
    "No Local on a shared subscription, 3.8.3-4": "82 10 0001 00 000A '$share/g/a' 04",
}


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED)
def test_malformed_packets_raise(raw: str) -> None:
    with pytest.raises(MalformedError):
        list(Stream().feed(bytes_of(raw)))


def test_the_reason_code_of_section_4_13_comes_with_the_error() -> None:
    for name, code in {
        "trailing bytes in PINGREQ": 0x81,
        "a property twice": 0x82,
        "MQTT 3.1.1": 0x84,
    }.items():
        with pytest.raises(MalformedError) as raised:
            list(Stream().feed(bytes_of(MALFORMED[name])))
        assert raised.value.code == code


def test_packets_before_a_malformed_one_are_still_read() -> None:
    feed = Stream().feed(encode(Pingreq()) + b"\x00\x00")
    assert next(feed) == (Pingreq(), 2)
    with pytest.raises(MalformedError):
        next(feed)


def test_what_a_client_only_must_not_do_is_decoded() -> None:
    assert only(bytes_of("38 06 0003 'a/#' 00")) == Publish(topic="a/#", dup=True)


def test_properties_are_not_written_where_they_may_not_stand() -> None:
    with pytest.raises(ValueError, match="no property receive_maximum in PUBLISH"):
        encode(Publish(topic="t", properties={"receive_maximum": 1}))
    with pytest.raises(ValueError, match="is no text"):
        encode(Publish(topic="t", properties={"content_type": 1}))


def test_packets_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Puback(packet_id=1).reason = 0x80  # type: ignore[misc]


# Round trips.

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
blobs = st.binary(max_size=60)
identifiers = st.integers(1, 0xFFFF)
VALUES: dict[str, st.SearchStrategy[int | str | bytes]] = {
    "flag": st.integers(0, 1),
    "two": st.integers(1, 0xFFFF),
    "four": st.integers(1, 0xFFFF_FFFF),
    "varint": st.integers(1, wire.MAX_VARINT),
    "text": texts,
    "binary": blobs,
}


def properties_in(place: str) -> st.SearchStrategy[Properties]:
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for name, kind, places in wire.TABLE.values():
        if place not in places or name == "authentication_data":
            continue
        if kind == "pair":
            optional[name] = st.lists(st.tuples(texts, texts), min_size=1, max_size=3).map(tuple)
        elif name == "subscription_identifier":
            most = 3 if place == "PUBLISH" else 1
            optional[name] = st.lists(VALUES[kind], min_size=1, max_size=most).map(tuple)
        else:
            optional[name] = VALUES[kind]
    return st.fixed_dictionaries({}, optional=optional)


wills = st.builds(
    Will,
    topic=texts,
    payload=blobs,
    qos=st.integers(0, 2),
    retain=st.booleans(),
    properties=properties_in("will"),
)
publishes = st.integers(0, 2).flatmap(
    lambda qos: st.builds(
        Publish,
        topic=texts,
        payload=st.binary(max_size=300),
        qos=st.just(qos),
        retain=st.booleans(),
        dup=st.booleans(),
        packet_id=identifiers if qos else st.none(),
        properties=properties_in("PUBLISH"),
    )
)
filters = st.builds(
    Filter,
    topic=texts.filter(lambda topic: not topic.startswith("$share/")),
    qos=st.integers(0, 2),
    no_local=st.booleans(),
    retain_as_published=st.booleans(),
    retain_handling=st.integers(0, 2),
)
packets: st.SearchStrategy[Packet] = st.one_of(
    publishes,
    st.builds(
        Connect,
        client_id=texts,
        clean_start=st.booleans(),
        keep_alive=st.integers(0, 0xFFFF),
        will=st.none() | wills,
        username=st.none() | texts,
        password=st.none() | blobs,
        properties=properties_in("CONNECT"),
    ),
    st.builds(Connack, reason=st.sampled_from(sorted(CONNACK_REASONS)), properties=properties_in("CONNACK")),
    st.builds(Connack, session_present=st.just(value=True)),
    st.builds(
        Subscribe,
        packet_id=identifiers,
        filters=st.lists(filters, min_size=1, max_size=4).map(tuple),
        properties=properties_in("SUBSCRIBE"),
    ),
    st.builds(
        Unsubscribe,
        packet_id=identifiers,
        filters=st.lists(texts, min_size=1, max_size=4).map(tuple),
        properties=properties_in("UNSUBSCRIBE"),
    ),
    st.sampled_from([Pingreq(), Pingresp()]),
    *(
        st.builds(
            cls,
            packet_id=identifiers,
            reason=st.sampled_from(sorted(reasons)),
            properties=properties_in(cls.__name__.upper()),
        )
        for cls, reasons in ACKS.values()
    ),
    *(
        st.builds(
            cls,
            packet_id=identifiers,
            reasons=st.lists(st.sampled_from(sorted(reasons)), min_size=1, max_size=4).map(tuple),
            properties=properties_in(cls.__name__.upper()),
        )
        for cls, reasons in ANSWERS.values()
    ),
    *(
        st.builds(cls, reason=st.sampled_from(sorted(reasons)), properties=properties_in(cls.__name__.upper()))
        for cls, reasons in ENDS.values()
    ),
)


@given(packets)
def test_a_packet_comes_back_as_it_went(packet: Packet) -> None:
    assert only(encode(packet)) == packet


@given(st.lists(packets, max_size=5), st.randoms(use_true_random=False))
def test_packets_come_back_however_the_stream_is_cut(sent: list[Packet], random: Random) -> None:
    data, stream, at = b"".join(map(encode, sent)), Stream(), 0
    received: list[Packet] = []
    while at < len(data):
        size = random.randint(1, 7)
        received += [packet for packet, _ in stream.feed(data[at : at + size])]
        at += size
    assert received == sent


@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_packets_or_malformed_and_nothing_else(data: bytes) -> None:
    try:
        received = [packet for packet, _ in Stream().feed(data)]
    except MalformedError:
        return
    for packet in received:
        assert only(encode(packet)) == packet

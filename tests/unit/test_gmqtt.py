"""What the link relies on in gmqtt, most of it private: a new version has to pass here before it may be pinned."""

import asyncio
import gc
import inspect
from importlib.metadata import version

import pytest
from gmqtt import Message, Subscription
from gmqtt.mqtt import package
from gmqtt.mqtt.connection import MQTTConnection
from gmqtt.mqtt.constants import MQTTv50, MQTTv311
from gmqtt.mqtt.handler import MqttPackageHandler
from gmqtt.mqtt.protocol import MQTTProtocol
from gmqtt.mqtt.utils import ConnectionState, pack_variable_byte_integer

from agent.errors import Cause, LinkDownError
from agent.link.handler import Handler
from agent.link.protocol import Protocol


def test_the_pinned_version_is_installed() -> None:
    assert version("gmqtt") == "0.8.0"


@pytest.mark.parametrize(
    "name",
    [
        "__call__",
        "_handle_packet",
        "_parse_properties",
        "_send_puback",
        "_handle_connack_packet",
        "_handle_disconnect_packet",
        "_handle_pingresp_packet",
        "_handle_suback_packet",
        "_handle_qos_1_publish_packet",
        "_handle_publish_packet",
        "on_message",
        "set_connection",
        "current_connection",
    ],
)
def test_the_handler_still_has_what_is_called_or_overridden(name: str) -> None:
    assert hasattr(MqttPackageHandler, name)


@pytest.mark.parametrize(
    "name",
    [
        "put_package",
        "send_package",
        "auth",
        "subscribe",
        "send_disconnect",
        "_send_ping_request",
        "send_command_with_mid",
    ],
)
def test_the_connection_still_has_what_is_called(name: str) -> None:
    assert hasattr(MQTTConnection, name)


@pytest.mark.parametrize("name", ["read", "pause_writing", "resume_writing", "connection_lost", "_read_loop"])
def test_the_protocol_still_has_what_is_overridden(name: str) -> None:
    assert hasattr(MQTTProtocol, name)


def test_overrides_have_the_signatures_of_what_they_replace() -> None:
    for name in ("_handle_connack_packet", "_handle_disconnect_packet", "_handle_suback_packet"):
        assert len(inspect.signature(getattr(Handler, name)).parameters) == 3
        assert len(inspect.signature(getattr(MqttPackageHandler, name)).parameters) == 3
    theirs = inspect.signature(MqttPackageHandler._handle_qos_1_publish_packet)
    assert list(theirs.parameters) == ["self", "mid", "packet", "print_topic", "properties"]


async def test_the_constructors_take_what_is_passed() -> None:
    handler = Handler(state=ConnectionState())
    protocol = Protocol(handler)
    assert protocol._read_loop_future is None
    handler.down(LinkDownError("end", cause=Cause.LOST))
    assert handler.ended.done()
    assert isinstance(handler.connack.exception(), Exception)
    await asyncio.sleep(0)


async def test_a_connection_that_ends_before_it_was_taken_on_ends_quietly() -> None:
    loop = asyncio.get_running_loop()
    told: list[str] = []
    loop.set_exception_handler(lambda _loop, context: told.append(str(context)))
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        transport, protocol = await loop.create_connection(
            lambda: Protocol(Handler(state=ConnectionState())), *server.sockets[0].getsockname()
        )
        reading = protocol._read_loop_future
        transport.abort()
        await asyncio.wait([reading])
        await asyncio.wait([protocol.closed])
    gc.collect()
    assert told == []


def test_the_codec_still_has_what_is_used() -> None:
    assert package.PackageFactory._build_properties_data({"content_type": "a"}, 5) == bytearray(b"\x04\x03\x00\x01a")
    assert pack_variable_byte_integer(321) == bytearray(b"\xc1\x02")


async def at_level_4() -> tuple[Handler, Protocol]:
    handler = Handler(state=ConnectionState(protocol_version=MQTTv311))
    return handler, Protocol(handler)


def test_the_protocol_levels_are_those_of_the_standards() -> None:
    assert (MQTTv311, MQTTv50) == (4, 5)


async def test_the_codec_writes_mqtt_3_1_1_where_the_state_says_so() -> None:
    _, protocol = await at_level_4()
    will = Message("w", b"lost", qos=1, retain=True, will_delay_interval=15, content_type="application/json")
    connect = package.LoginPackageFactor.build_package(
        "rover",
        b"us\xc3\xa9r",
        b"pw",
        clean_session=False,
        keepalive=30,
        protocol=protocol,
        will_message=will,
        session_expiry_interval=60,
    )
    assert bytes(connect) == (
        b"\x10\x25\x00\x04MQTT\x04\xec\x00\x1e\x00\x05rover\x00\x01w\x00\x04lost\x00\x05us\xc3\xa9r\x00\x02pw"
    )
    _, subscribe = package.SubscribePacket.build_package([Subscription("a/#", qos=1)], protocol)
    assert bytes(subscribe)[:2] + bytes(subscribe)[4:] == b"\x82\x08\x00\x03a/#\x01"
    assert package.DisconnectPacket.build_package(protocol, reason_code=4) == b"\xe0\x00"
    assert (
        package.CommandWithMidPacket.build_package(0x40, 258, dup=False, reason_code=0x92, proto_ver=4)
        == b"\x40\x02\x01\x02"
    )


async def test_the_handler_reads_mqtt_3_1_1_where_the_state_says_so() -> None:
    handler, _ = await at_level_4()
    suback = asyncio.get_running_loop().create_future()
    handler._subacks[258] = suback
    handler(package.Package(0x20, b"\x01\x00"))
    handler(package.Package(0x90, b"\x01\x02\x01\x80"))
    handler(package.Package(0x32, b"\x00\x01a\x01\x02\x07payload"))
    assert handler.connack.result() == (True, 0, {})
    assert suback.result() == (1, 0x80)
    inbound = handler.inbound.get_nowait()
    assert (inbound.topic, inbound.payload, inbound.packet_id) == ("a", b"\x07payload", 258)
    assert not handler.ended.done()

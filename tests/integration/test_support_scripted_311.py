"""The scripted broker as one that knows MQTT 3.1.1 alone: what it answers, and how it judges."""

from collections.abc import AsyncIterator

import pytest

from tests.support.packets import (
    Connack,
    Connect,
    Disconnect,
    Filter,
    Packet,
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
from tests.support.raw_client import RawClient
from tests.support.scripted import Script, ScriptedBroker
from tests.support.wire import MQTT_3_1_1


def one(packet_id: int, payload: bytes = b"", *, qos: int = 1, dup: bool = False) -> Publish:
    return Publish(topic="t", payload=payload or b"%d" % packet_id, qos=qos, dup=dup, packet_id=packet_id)


@pytest.fixture
async def old() -> AsyncIterator[ScriptedBroker]:
    async with ScriptedBroker(level=MQTT_3_1_1) as broker:
        yield broker


def robot(broker: ScriptedBroker) -> RawClient:
    return RawClient(broker.port, level=MQTT_3_1_1)


def statements(broker: ScriptedBroker) -> list[str]:
    return [violation.statement for violation in broker.violations]


async def test_a_connect_of_mqtt_5_is_refused_and_closed(old: ScriptedBroker) -> None:
    async with RawClient(old.port) as client:
        client.send_raw(b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01r")
        await old.wait_for(lambda: old.connections and old.connections[0].closed)
        assert await client._reader.read() == b"\x20\x02\x00\x01"
    assert old.connections[0].refused_level == 5
    assert not old.connected
    assert old.violations == []


async def test_a_connect_of_mqtt_3_1_1_is_refused_by_one_that_knows_5_alone(scripted: ScriptedBroker) -> None:
    async with RawClient(scripted.port, level=MQTT_3_1_1) as client:
        client.send(Connect(client_id="robot"))
        await scripted.wait_for(lambda: scripted.connections and scripted.connections[0].closed)
        assert await client._reader.read() == b"\x20\x03\x00\x84\x00"
    assert scripted.connections[0].refused_level == 4


async def test_all_packets_are_answered(old: ScriptedBroker) -> None:
    async with robot(old) as client:
        assert await client.connect() == Connack()
        client.send(Subscribe(packet_id=9, filters=(Filter(topic="a", qos=1),)))
        assert await client.receive(Suback) == Suback(packet_id=9, reasons=(1,))
        client.send(Unsubscribe(packet_id=9, filters=("a",)))
        assert await client.receive(Unsuback) == Unsuback(packet_id=9, reasons=())
        client.send(one(1), one(2, qos=2))
        assert await client.receive(Puback) == Puback(packet_id=1)
        assert await client.receive(Pubrec) == Pubrec(packet_id=2)
        client.send(Pubrel(packet_id=2))
        assert await client.receive(Pubcomp) == Pubcomp(packet_id=2)
        old.deliver("cmd/a", b"1")
        assert (await client.receive(Publish)).payload == b"1"
        client.send(Puback(packet_id=1))
        await client.ping()
        client.send(Disconnect())
        await client.closed()
    assert len(old.accepted) == 2
    assert old.violations == []


async def test_a_refused_message_is_acknowledged_and_gone(old: ScriptedBroker) -> None:
    old.default = Script(ack=lambda _packet: 0x87)
    async with robot(old) as client:
        await client.connect()
        client.send(one(1), one(2, qos=2))
        assert await client.receive(Puback) == Puback(packet_id=1)
        await client.receive(Pubrec)
        client.send(Pubrel(packet_id=2))
        await client.receive(Pubcomp)
    assert old.accepted == []
    assert old.violations == []


@pytest.mark.parametrize("clean", [False, True], ids=["kept", "clean"])
async def test_a_session_is_kept_until_a_clean_one(old: ScriptedBroker, clean: bool) -> None:  # noqa: FBT001
    for present in (False, not clean):
        async with robot(old) as client:
            assert await client.connect(Connect(client_id="robot", clean_start=clean)) == Connack(
                session_present=present
            )
        await old.wait_for(lambda: all(item.closed for item in old.connections))


@pytest.mark.parametrize(("goodbye", "wills"), [([Disconnect()], 0), ([], 1)], ids=["in order", "cut"])
async def test_a_will_is_due_without_disconnect(old: ScriptedBroker, goodbye: list[Packet], wills: int) -> None:
    async with robot(old) as client:
        await client.connect(Connect(client_id="robot", will=Will(topic="status", payload=b"lost")))
        client.send(*goodbye)
    await old.wait_for(lambda: old.connections[0].closed)
    assert len(old.wills) == wills


ON_ONE_CONNECTION: dict[str, tuple[list[str], list[Packet]]] = {
    "an identifier in use": (["MQTT-2.3.1-2"], [one(1, b"a"), one(1, b"b")]),
    "a retransmission without DUP": (["MQTT-3.3.1-1"], [one(1), one(1)]),
    "a retransmission with DUP, which is allowed": ([], [one(1), one(1, dup=True)]),
    "DUP on a first transmission": (["MQTT-4.3.2-1"], [one(1, dup=True)]),
    "DUP at QoS 0": (["MQTT-3.3.1-2"], [Publish(topic="t", dup=True)]),
    "PUBACK for nothing": (["MQTT-2.3.1-6"], [Puback(packet_id=9)]),
}


@pytest.mark.parametrize(("expected", "packets"), ON_ONE_CONNECTION.values(), ids=ON_ONE_CONNECTION)
async def test_conduct_is_judged_by_the_statements_of_3_1_1(
    old: ScriptedBroker, expected: list[str], packets: list[Packet]
) -> None:
    async with old.dropping_acks(), robot(old) as client:
        await client.connect()
        client.send(*packets)
        await client.ping()
    assert statements(old) == expected


async def test_the_order_of_retransmissions_is_judged(old: ScriptedBroker) -> None:
    async with old.dropping_acks():
        for packets in ([one(1), one(2)], [one(2, dup=True), one(1, dup=True)]):
            async with robot(old) as client:
                await client.connect()
                client.send(*packets)
                await client.ping()
            await old.wait_for(lambda: not old.connected)
    assert statements(old) == ["MQTT-4.6.0-1"]

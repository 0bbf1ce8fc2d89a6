"""The scripted broker: each fault as a client meets it, and each judgement of a client's conduct as it is passed."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

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
from tests.support.raw_client import RawClient
from tests.support.scripted import Hello, Script, ScriptedBroker
from tests.support.wire import Properties


def one(packet_id: int, payload: bytes = b"", *, qos: int = 1, dup: bool = False, topic: str = "t") -> Publish:
    return Publish(topic=topic, payload=payload or b"%d" % packet_id, qos=qos, dup=dup, packet_id=packet_id)


@asynccontextmanager
async def robot(broker: ScriptedBroker) -> AsyncIterator[RawClient]:
    async with RawClient(broker.port) as client:
        await client.connect()
        yield client


def statements(broker: ScriptedBroker) -> list[str]:
    return [violation.statement for violation in broker.violations]


# The conduct of a client: each rule can be seen to be broken.

LIMITED: Properties = {
    "receive_maximum": 2,
    "maximum_packet_size": 60,
    "maximum_qos": 1,
    "retain_available": 0,
    "topic_alias_maximum": 1,
}
ON_ONE_CONNECTION: dict[str, tuple[str, list[Packet]]] = {
    "an identifier in use": ("MQTT-2.2.1-3", [one(1, b"a"), one(1, b"b")]),
    "an identifier in use, for SUBSCRIBE": (
        "MQTT-2.2.1-3",
        [one(1), Subscribe(packet_id=1, filters=(Filter(topic="a"),))],
    ),
    "an identifier in use, for UNSUBSCRIBE": ("MQTT-2.2.1-3", [one(1), Unsubscribe(packet_id=1, filters=("a",))]),
    "a retransmission on a live connection": ("MQTT-4.4.0-1", [one(1), one(1)]),
    "a retransmission with DUP on a live connection": ("MQTT-4.4.0-1", [one(1), one(1, dup=True)]),
    "more than Receive Maximum": ("MQTT-3.3.4-7", [one(1), one(2), one(3)]),
    "DUP on a first transmission": ("MQTT-4.3.2-2", [one(1, dup=True)]),
    "QoS above Maximum QoS": ("MQTT-3.2.2-11", [one(1, qos=2)]),
    "RETAIN that is not available": ("MQTT-3.2.2-14", [Publish(topic="t", retain=True)]),
    "a packet above Maximum Packet Size": ("MQTT-3.2.2-15", [Publish(topic="t", payload=b"x" * 60)]),
    "DUP at QoS 0": ("MQTT-3.3.1-2", [Publish(topic="t", dup=True)]),
    "a wildcard in a topic": ("MQTT-3.3.2-2", [Publish(topic="a/+")]),
    "a wildcard in a response topic": ("MQTT-3.3.2-14", [Publish(topic="t", properties={"response_topic": "r/#"})]),
    "a subscription identifier": ("MQTT-3.3.4-6", [Publish(topic="t", properties={"subscription_identifier": (1,)})]),
    "an alias above Topic Alias Maximum": ("MQTT-3.3.2-9", [Publish(topic="t", properties={"topic_alias": 2})]),
    "an alias that was not told": ("section 3.3.2.1", [Publish(topic="", properties={"topic_alias": 1})]),
    "an empty topic": ("section 3.3.2.1", [Publish(topic="")]),
    "PUBACK for nothing": ("MQTT-2.2.1-5", [Puback(packet_id=9)]),
    "PUBCOMP for nothing": ("MQTT-2.2.1-5", [Pubcomp(packet_id=9)]),
    "PUBREL for nothing": ("section 4.3.3", [Pubrel(packet_id=9)]),
    "AUTH without a method": ("MQTT-4.12.0-7", [Auth()]),
}


@pytest.mark.parametrize(("statement", "packets"), ON_ONE_CONNECTION.values(), ids=ON_ONE_CONNECTION)
async def test_a_violation_is_recorded_with_its_statement(
    scripted: ScriptedBroker, statement: str, packets: list[Packet]
) -> None:
    scripted.scripts.append(Script(properties=LIMITED))
    async with scripted.dropping_acks(), robot(scripted) as client:
        client.send(*packets)
        client.send(Pingreq())
        await scripted.wait_for(lambda: scripted.violations)
    assert statements(scripted) == [statement]
    assert scripted.violations[0].connection == 1


@pytest.mark.parametrize(
    ("statement", "packets"),
    [
        ("MQTT-3.1.0-1", [Pingreq()]),
        ("MQTT-3.1.0-2", [Connect(client_id="robot"), Connect(client_id="robot")]),
        ("MQTT-3.14.4-1", [Connect(client_id="robot"), Disconnect(), Publish(topic="t")]),
        ("section 2.1.2", [Connect(client_id="robot"), Pingresp()]),
    ],
)
async def test_a_violation_of_the_order_of_packets_is_recorded(
    scripted: ScriptedBroker, statement: str, packets: list[Packet]
) -> None:
    async with RawClient(scripted.port) as client:
        client.send(*packets)
        await scripted.wait_for(lambda: scripted.violations)
    assert statements(scripted) == [statement]
    assert scripted.publishes == []


async def test_data_after_disconnect_is_seen_also_when_it_comes_later(scripted: ScriptedBroker) -> None:
    async with robot(scripted) as client:
        client.send(Disconnect())
        await client.closed()
        client.send(Publish(topic="t"))
        await scripted.wait_for(lambda: scripted.violations)
    assert statements(scripted) == ["MQTT-3.14.4-1"]


async def test_malformed_bytes_are_a_violation_and_end_the_connection(scripted: ScriptedBroker) -> None:
    async with robot(scripted) as client:
        client.send_raw(b"\x36\x00")
        assert (await client.receive(Disconnect)).reason == 0x81
        await client.closed()
    assert statements(scripted) == ["section 4.13"]


async def test_silence_beyond_the_keep_alive_is_recorded() -> None:
    now = 0.0
    async with ScriptedBroker(clock=lambda: now) as broker:
        broker.scripts.append(Script(properties={"server_keep_alive": 10}))
        async with robot(broker) as client:
            now = 15.0
            await client.ping()
            assert broker.violations == []
            now = 30.1
            await client.ping()
            assert statements(broker) == ["MQTT-3.1.2-22"]
            async with broker.stalling():
                now = 60.0
            await client.ping()
            now = 80.0
        await broker.wait_for(lambda: broker.connections[0].closed)
        assert statements(broker) == ["MQTT-3.1.2-22"] * 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """What a client sends before and after a connection broke, all unacknowledged, with its session present."""

    before: list[Packet]
    after: list[Packet]
    statement: str | None


AFTER_A_RECONNECT: dict[str, Again] = {
    "with DUP, in order": Again(
        before=[one(1), one(2)], after=[one(1, dup=True), one(2, dup=True), one(3)], statement=None
    ),
    "without DUP": Again(before=[one(1)], after=[one(1)], statement="MQTT-3.3.1-1"),
    "not in order": Again(
        before=[one(1), one(2)], after=[one(2, dup=True), one(1, dup=True)], statement="MQTT-4.6.0-1"
    ),
    "the identifier for something else": Again(before=[one(1, b"a")], after=[one(1, b"b")], statement="MQTT-2.2.1-3"),
    "the identifier for something else, with DUP": Again(
        before=[one(1, b"a")], after=[one(1, b"b", dup=True)], statement="MQTT-2.2.1-3"
    ),
    "twice": Again(before=[one(1)], after=[one(1, dup=True), one(1, dup=True)], statement="MQTT-4.4.0-1"),
    "what may have been lost on the way": Again(
        before=[one(1)], after=[one(1, dup=True), one(2, dup=True)], statement=None
    ),
    "more than may have been lost on the way": Again(
        before=[one(1)], after=[one(2, dup=True), one(3, dup=True), one(4, dup=True)], statement="MQTT-4.3.2-2"
    ),
    "a subscription under its identifier": Again(
        before=[one(1)], after=[Unsubscribe(packet_id=1, filters=("a",))], statement="MQTT-2.2.1-3"
    ),
}


@pytest.mark.parametrize("again", AFTER_A_RECONNECT.values(), ids=AFTER_A_RECONNECT)
async def test_retransmissions_after_a_reconnect_are_judged(scripted: ScriptedBroker, again: Again) -> None:
    scripted.scripts += [Script(properties={"receive_maximum": 2}), Script(properties={"receive_maximum": 9})]
    async with scripted.dropping_acks():
        async with robot(scripted) as client:
            client.send(*again.before)
            await client.ping()
        async with RawClient(scripted.port) as client:
            assert (await client.connect()).session_present
            client.send(*again.after, Pingreq())
            await scripted.wait_for(lambda: scripted.violations or len(scripted.publishes) > len(again.before))
            client.send(Disconnect())
            await scripted.wait_for(lambda: scripted.disconnects)
    assert statements(scripted) == ([again.statement] if again.statement else [])


async def test_an_answer_that_was_lost_on_its_way_does_not_change_the_order_of_what_is_sent_again(
    scripted: ScriptedBroker,
) -> None:
    scripted.scripts.append(Script(ack=lambda packet: 0 if packet.packet_id == 1 else None))
    both = [one(1, dup=True), one(2, dup=True)]
    async with robot(scripted) as client:
        client.send(one(1), one(2))
        await client.receive(Puback)
    async with scripted.dropping_acks():
        for again in (both, both, both[::-1]):
            assert scripted.violations == []
            async with RawClient(scripted.port) as client:
                assert (await client.connect()).session_present
                client.send(*again)
                await client.ping()
    assert statements(scripted) == ["MQTT-4.6.0-1"]


async def test_a_restarted_client_need_not_know_what_was_in_flight(scripted: ScriptedBroker) -> None:
    async with scripted.dropping_acks():
        async with robot(scripted) as client:
            client.send(one(1, b"a"), one(2, b"b"), one(3, b"c"))
            await client.ping()
        scripted.expect_client_memory_lost()
        async with robot(scripted) as client:
            client.send(one(1, b"other"), one(2, b"b"), one(3, b"c", dup=True), one(7, dup=True))
            await client.ping()
        assert scripted.violations == []
        async with robot(scripted) as client:
            client.send(one(2, b"b"))
            await client.ping()
    assert statements(scripted) == ["MQTT-3.3.1-1"]


@pytest.mark.parametrize(("qos", "statement"), [(1, "MQTT-4.3.2-2"), (2, "MQTT-4.3.3-2")])
async def test_dup_where_the_session_was_lost_is_a_violation(
    scripted: ScriptedBroker, qos: int, statement: str
) -> None:
    async with scripted.dropping_acks(), robot(scripted) as client:
        client.send(one(1, qos=qos))
        await client.ping()
    scripted.lose_sessions()
    async with scripted.dropping_acks(), RawClient(scripted.port) as client:
        assert not (await client.connect()).session_present
        client.send(one(1, qos=qos, dup=True))
        await client.ping()
    assert statements(scripted) == [statement]


async def test_an_acknowledgement_that_was_lost_excuses_dup(scripted: ScriptedBroker) -> None:
    async with robot(scripted) as client:
        client.send(one(1))
        await client.receive(Puback)
    async with robot(scripted) as client:
        client.send(one(1, dup=True))
        await client.receive(Puback)
    assert scripted.violations == []


async def test_qos_2_is_accepted_once_across_connections(scripted: ScriptedBroker) -> None:
    async with robot(scripted) as client:
        client.send(one(1, qos=2))
        assert (await client.receive(Pubrec)).packet_id == 1
    async with robot(scripted) as client:
        client.send(one(1, qos=2, dup=True))
        await client.receive(Pubrec)
        client.send(Pubrel(packet_id=1))
        assert await client.receive(Pubcomp) == Pubcomp(packet_id=1)
        client.send(one(1, b"next", qos=2))
        await client.receive(Pubrec)
    assert [item.payload for item in scripted.accepted] == [b"1", b"next"]
    assert len(scripted.publishes) == 3
    assert scripted.violations == []


async def test_publish_after_its_pubrel_and_pubrel_twice_are_violations(scripted: ScriptedBroker) -> None:
    async with robot(scripted) as client:
        client.send(one(1, qos=2))
        await client.receive(Pubrec)
        async with scripted.dropping_acks():
            client.send(Pubrel(packet_id=1), Pubrel(packet_id=1))
            await client.ping()
    assert statements(scripted) == ["MQTT-4.4.0-1"]
    async with scripted.dropping_acks(), robot(scripted) as client:
        client.send(one(1, qos=2, dup=True))
        await client.ping()
    assert statements(scripted)[1:] == ["MQTT-4.3.3-6"]
    async with robot(scripted) as client:
        client.send(Pubrel(packet_id=1))
        assert await client.receive(Pubcomp) == Pubcomp(packet_id=1)


# What the broker does on demand.


async def test_connect_is_never_answered(scripted: ScriptedBroker) -> None:
    scripted.scripts.append(Script(hello=Hello.SILENCE))
    async with RawClient(scripted.port) as client:
        client.send(Connect(client_id="robot"), Pingreq())
        await scripted.wait_for(lambda: scripted.connections and scripted.connections[0].connect)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.receive(Connack)
    assert not scripted.connected


async def test_the_connection_is_closed_before_connack(scripted: ScriptedBroker) -> None:
    scripted.scripts.append(Script(hello=Hello.CLOSE))
    async with RawClient(scripted.port) as client:
        with pytest.raises(EOFError):
            await client.connect()


async def test_a_refusal_has_its_reason_and_properties_and_closes(scripted: ScriptedBroker) -> None:
    properties: Properties = {"reason_string": "not today", "server_reference": "other:1883"}
    async with scripted.playing(Script(reason=0x9C, properties=properties)), RawClient(scripted.port) as client:
        assert await client.connect() == Connack(reason=0x9C, properties=properties)
        await client.closed()
    assert scripted.sessions == {}
    async with RawClient(scripted.port) as client:
        assert (await client.connect()).reason == 0


async def test_session_present_is_true_or_as_the_script_says(scripted: ScriptedBroker) -> None:
    scripted.scripts += [Script(), Script(), Script(session_present=False), Script(session_present=True)]
    present = []
    for _ in range(4):
        async with RawClient(scripted.port) as client:
            present.append((await client.connect()).session_present)
    async with RawClient(scripted.port) as client:
        present.append((await client.connect(Connect(client_id="robot", clean_start=True))).session_present)
    await scripted.wait_for(lambda: scripted.connections[-1].closed)
    assert present == [False, True, False, True, False]
    assert scripted.sessions == {}


async def test_a_client_without_identifier_is_given_one(scripted: ScriptedBroker) -> None:
    async with RawClient(scripted.port) as client:
        connack = await client.connect(Connect(client_id=""))
    assert connack.properties == {"assigned_client_identifier": "assigned-1"}


async def test_the_reason_code_of_an_acknowledgement_is_chosen_for_each_packet(scripted: ScriptedBroker) -> None:
    codes = {b"good": 0, b"quota": 0x97, b"never": None}
    scripted.default = Script(ack=lambda packet: codes[packet.payload])
    async with robot(scripted) as client:
        client.send(one(1, b"quota"), one(2, b"never"), one(3, b"good"), one(4, b"quota", qos=2))
        assert await client.receive(Puback) == Puback(packet_id=1, reason=0x97)
        assert await client.receive(Puback) == Puback(packet_id=3)
        assert await client.receive(Pubrec) == Pubrec(packet_id=4, reason=0x97)
        client.send(one(4, b"good"))
        assert await client.receive(Puback) == Puback(packet_id=4)
    assert [item.code for item in scripted.publishes] == [0x97, None, 0, 0x97, 0]
    assert [item.payload for item in scripted.accepted] == [b"never", b"good", b"good"]
    assert scripted.violations == []


async def test_acknowledgements_are_held_reversed_and_delayed(scripted: ScriptedBroker) -> None:
    async with robot(scripted) as client:
        async with scripted.holding_acks():
            client.send(one(1), one(2))
            await client.ping()
        assert [(await client.receive(Puback)).packet_id for _ in range(2)] == [1, 2]
        async with scripted.reversing_acks(3):
            client.send(*map(one, range(1, 6)))
            assert [(await client.receive(Puback)).packet_id for _ in range(3)] == [3, 2, 1]
            await client.ping()
        assert [(await client.receive(Puback)).packet_id for _ in range(2)] == [5, 4]
        async with scripted.delaying_acks(0.05):
            start = time.monotonic()
            client.send(one(1))
            await client.receive(Puback)
            assert time.monotonic() - start >= 0.05
    assert scripted.violations == []


async def test_the_connection_is_reset_after_so_many_publishes(scripted: ScriptedBroker) -> None:
    will = Will(topic="status", payload=b"lost")
    scripted.scripts.append(Script(abort_after=2))
    async with RawClient(scripted.port) as client:
        await client.connect(Connect(client_id="robot", will=will))
        async with scripted.dropping_acks():
            client.send(one(1), one(2), one(3))
            with pytest.raises(ConnectionResetError):
                await client.closed()
    assert [item.packet.packet_id for item in scripted.publishes] == [1, 2]
    assert scripted.wills == [will]


async def test_a_stalled_broker_lets_the_client_feel_it() -> None:
    async with ScriptedBroker(receive_buffer=4096) as broker, robot(broker) as client:
        async with broker.stalling():
            for number in range(1, 200):
                client.send(one(number, bytes(65_536)))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await client.drain()
            assert broker.publishes == []
        await broker.wait_for(lambda: len(broker.publishes) == 199)


async def test_the_server_disconnects_sends_nonsense_or_just_closes(scripted: ScriptedBroker) -> None:
    async with robot(scripted) as client:
        scripted.connection.end(0x8B, {"reason_string": "shutting down"})
        assert await client.receive(Disconnect) == Disconnect(
            reason=0x8B, properties={"reason_string": "shutting down"}
        )
        await client.closed()
    async with scripted.playing(Script(raw=b"\xff\xff")), RawClient(scripted.port) as client:
        client.send(Connect(client_id="robot"))
        await scripted.wait_for(lambda: scripted.connected)
    async with robot(scripted) as client:
        scripted.connection.close()
        await client.closed()


async def test_a_script_may_act_on_any_packet(scripted: ScriptedBroker) -> None:
    scripted.scripts.append(
        Script(on_packet=lambda connection, packet: connection.abort() if isinstance(packet, Pingreq) else None)
    )
    async with robot(scripted) as client:
        client.send(Pingreq())
        with pytest.raises(ConnectionResetError):
            await client.closed()


async def test_a_second_connection_takes_the_session_over(scripted: ScriptedBroker) -> None:
    async with robot(scripted) as first, RawClient(scripted.port) as second:
        assert (await second.connect()).session_present
        assert (await first.receive(Disconnect)).reason == 0x8E
        await first.closed()
        await second.ping()


async def test_an_unreachable_broker_refuses_and_comes_back_with_its_sessions(scripted: ScriptedBroker) -> None:
    async with robot(scripted) as client:
        async with scripted.unreachable():
            with pytest.raises(ConnectionResetError):
                await client.closed()
            with pytest.raises(ConnectionRefusedError):
                async with RawClient(scripted.port):
                    pass
        async with RawClient(scripted.port) as again:
            assert (await again.connect()).session_present


async def test_subscriptions_are_granted_kept_and_taken_back(scripted: ScriptedBroker) -> None:
    scripted.default = Script(grant=lambda item: 0x87 if item.topic == "secret" else 1)
    async with robot(scripted) as client:
        client.send(Subscribe(packet_id=1, filters=(Filter(topic="cmd/+", qos=2), Filter(topic="secret"))))
        assert await client.receive(Suback) == Suback(packet_id=1, reasons=(1, 0x87))
        assert scripted.sessions["robot"].subscriptions == {"cmd/+": 1}
        client.send(Unsubscribe(packet_id=1, filters=("cmd/+", "cmd/+")))
        assert await client.receive(Unsuback) == Unsuback(packet_id=1, reasons=(0, 0x11))
    assert scripted.violations == []


async def test_a_message_is_delivered_again_until_the_client_has_acknowledged_it(scripted: ScriptedBroker) -> None:
    async with robot(scripted) as client:
        assert scripted.deliver("cmd/a", b"1") == 1
        assert scripted.deliver("cmd/a", b"2", qos=2) == 2
        assert scripted.deliver("cmd/a", b"3", qos=0) is None
        assert [(await client.receive(Publish)).payload for _ in range(3)] == [b"1", b"2", b"3"]
        client.send(Pubrec(packet_id=2))
        assert await client.receive(Pubrel) == Pubrel(packet_id=2)
    async with robot(scripted) as client:
        assert await client.receive(Publish) == one(1, b"1", topic="cmd/a", dup=True)
        await client.receive(Pubrel)
        client.send(Puback(packet_id=1), Pubcomp(packet_id=2))
        await client.ping()
    assert scripted.sessions["robot"].outgoing == {}
    assert scripted.violations == []


async def test_acknowledging_out_of_order_is_a_violation(scripted: ScriptedBroker) -> None:
    async with robot(scripted) as client:
        scripted.deliver("cmd/a", b"1")
        scripted.deliver("cmd/a", b"2")
        assert [(await client.receive(Publish)).packet_id for _ in range(2)] == [1, 2]
        client.send(Puback(packet_id=2), Puback(packet_id=1))
        await client.ping()
    assert statements(scripted) == ["MQTT-4.6.0-2"]


@pytest.mark.parametrize(
    ("goodbye", "wills"), [([Disconnect()], 0), ([Disconnect(reason=4)], 1), ([], 1)], ids=["in order", "0x04", "cut"]
)
async def test_a_will_is_due_without_an_orderly_goodbye(
    scripted: ScriptedBroker, goodbye: list[Packet], wills: int
) -> None:
    async with RawClient(scripted.port) as client:
        await client.connect(Connect(client_id="robot", will=Will(topic="status", payload=b"lost")))
        client.send(*goodbye)
    await scripted.wait_for(lambda: scripted.connections[0].closed)
    assert len(scripted.wills) == wills


async def test_topic_aliases_are_resolved(scripted: ScriptedBroker) -> None:
    scripted.scripts.append(Script(properties={"topic_alias_maximum": 1}))
    async with robot(scripted) as client:
        client.send(
            Publish(topic="a/b", properties={"topic_alias": 1}), Publish(topic="", properties={"topic_alias": 1})
        )
        await client.ping()
    assert [item.topic for item in scripted.publishes] == ["a/b", "a/b"]
    assert scripted.violations == []


async def test_an_honest_client_is_not_accused(scripted: ScriptedBroker) -> None:
    scripted.default = Script(properties={"receive_maximum": 10, "maximum_packet_size": 100})
    for dup in (False, True):
        async with robot(scripted) as client:
            for _ in range(50):
                client.send(*(one(number, dup=dup) for number in range(1, 11)))
                for _ in range(10):
                    await client.receive(Puback)
                dup = False  # noqa: PLW2901
            async with scripted.dropping_acks():
                client.send(*(one(number) for number in range(1, 11)))
                await client.ping()
    assert scripted.violations == []


async def test_a_wait_that_fails_tells_what_happened(scripted: ScriptedBroker) -> None:
    async with robot(scripted):
        with pytest.raises(TimeoutError, match="1 connections, 0 publishes"):
            await scripted.wait_for(lambda: scripted.publishes, timeout=0.01)

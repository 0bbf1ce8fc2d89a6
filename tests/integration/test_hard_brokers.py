"""Brokers that make delivery hard: ending connections for one packet, answering pings only, losing sessions."""

import asyncio
import json
import time
from collections import Counter
from pathlib import Path

import pytest

from agent import sources
from agent.link.opening import Hello as Connect
from agent.link.opening import open_session
from agent.model import Message, Server
from tests.support import outbox_file
from tests.support.agent_process import AgentProcess, Setting
from tests.support.agent_socket import AgentSocket
from tests.support.connection import Connection
from tests.support.packets import Packet, Pingreq, Publish, Pubrec
from tests.support.robot_net import robot_net
from tests.support.script import Received
from tests.support.scripted import Hello, Script, ScriptedBroker
from tests.support.subscriber import records

QUICK: dict[str, Setting] = {
    "device_id": "rover",
    "broker.backoff.base": 0.05,
    "broker.backoff.cap": 0.2,
    "broker.backoff.link_cap": 0.2,
    "outbox.commit_interval": 0.05,
    **{f"streams.{name}.enabled": False for name in sources.STARTED},
}


def agent(folder: Path, url: str, **settings: Setting) -> AgentProcess:
    extra = {key.replace("__", "."): value for key, value in settings.items()}
    return AgentProcess(folder, {**QUICK, "broker.urls": [url], **extra})


async def feed(robot: AgentProcess, numbers: range, stream: str = "imu", filling: str = "") -> None:
    await robot.wait_for_line("is up: ")
    async with AgentSocket(robot.socket) as local:
        for number in numbers:
            await local.put(stream, n=number, filling=filling)
        await local.answers()
        assert local.errors == []


async def stopped(robot: AgentProcess) -> None:
    robot.sigterm()
    assert await robot.wait() == 0


def numbers(publishes: list[Received]) -> list[int]:
    return [row.payload["n"] for row in records(publishes)]


def ending_for(topic: str, code: int = 0x87) -> Script:
    """End the connection, in the place of a PUBACK, for whatever is published on the topic."""

    def on_packet(connection: Connection, packet: Packet) -> None:
        if isinstance(packet, Publish) and packet.topic.endswith(topic):
            connection.end(code)

    return Script(ack=lambda packet: None if packet.topic.endswith(topic) else 0, on_packet=on_packet)


async def test_a_record_for_which_the_broker_ends_connections_is_found_and_holds_up_no_other(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    async with scripted.unreachable():
        async with agent(state_dir, scripted.url, outbox__fresh_for=60) as robot:
            await feed(robot, range(10))
            await feed(robot, range(1), stream="secret")
            await feed(robot, range(10, 20))
            scripted.default = ending_for("/secret")
            await scripted.start()
            await scripted.wait_for(lambda: set(numbers(scripted.accepted)) == set(range(20)))
            await scripted.wait_for(lambda: [one for one in scripted.accepted if one.topic.endswith("/loss")])
            connections = len(scripted.connections)
            await feed(robot, range(20, 25))
            await scripted.wait_for(lambda: set(numbers(scripted.accepted)) == set(range(25)))
            assert len(scripted.connections) == connections
            await stopped(robot)
        await scripted.stop()
    assert set(outbox_file.quarantined(state_dir / "outbox.db")) == {("secret", 1, 1)}
    assert connections < 10


async def test_a_broker_that_answers_pings_but_acknowledges_nothing_is_given_up(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    scripted.default = Script(properties={"server_keep_alive": 1})
    async with agent(state_dir, scripted.url, broker__dead_after=3) as robot:
        await scripted.wait_for(lambda: scripted.publishes)
        async with scripted.dropping_acks():
            await feed(robot, range(5))
            await robot.wait_for_line("link down: no answer for")
        await scripted.wait_for(lambda: set(numbers(scripted.accepted)) == set(range(5)))


async def test_a_ping_comes_within_the_shortest_keep_alive_of_a_server(scripted: ScriptedBroker) -> None:
    pinged = asyncio.Event()

    def note(_connection: Connection, packet: Packet) -> None:
        if isinstance(packet, Pingreq):
            pinged.set()

    scripted.default = Script(properties={"server_keep_alive": 1}, on_packet=note)
    server = Server(host=scripted.host, port=scripted.port)
    async with open_session(Connect(server=server, client_id="robot")) as session:
        watch = asyncio.get_running_loop().create_task(session.watch())
        await asyncio.sleep(0.3)  # between two looks of the watch
        assert await session.submit(Message(topic="a", payload=b"", qos=1)) == 0
        async with asyncio.timeout(30):
            await pinged.wait()
        watch.cancel()
    assert scripted.violations == []


@pytest.mark.root(reason="it makes a network namespace")
async def test_a_record_that_takes_longer_than_dead_after_to_send_arrives_all_the_same(state_dir: Path) -> None:
    settings: dict[str, Setting] = {**QUICK, "broker.dead_after": 2, "ingest.max_line": "512KiB"}
    with robot_net(kbit_per_second=256) as net:
        async with ScriptedBroker(host=net.broker) as broker:
            settings["broker.urls"] = [broker.url]
            async with AgentProcess(state_dir, settings, command=net.command) as robot:
                await feed(robot, range(1), filling="x" * 200_000)
                await broker.wait_for(lambda: numbers(broker.accepted) == [0])
            assert len(broker.connections) == 1


async def test_after_a_lost_session_fresh_records_go_out_in_their_order(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    async with agent(state_dir, scripted.url, outbox__fresh_for=60) as robot:
        await scripted.wait_for(lambda: scripted.publishes)
        async with scripted.stalling():
            await feed(robot, range(50))
            scripted.lose_sessions()
            scripted.connection.abort()
            await robot.wait_for_line("link down")
        await scripted.wait_for(lambda: len(numbers(scripted.accepted)) == 50)
    assert numbers(scripted.publishes) == list(range(50))
    assert scripted.violations == []


async def test_a_session_that_was_lost_by_a_connection_which_ended_at_once_is_known_to_be_lost(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    async with agent(state_dir, scripted.url, outbox__fresh_for=60) as robot:
        await scripted.wait_for(lambda: scripted.publishes)
        async with scripted.dropping_acks():
            await feed(robot, range(10))
            await scripted.wait_for(lambda: len(numbers(scripted.publishes)) == 10)
            scripted.lose_sessions()
            # The next connection begins a new session, and ends with the very first packet, `online`.
            scripted.scripts.append(Script(abort_after=1, properties={"receive_maximum": 1}))
            scripted.connection.abort()
            await scripted.wait_for(lambda: len(scripted.connections) >= 3)
        await scripted.wait_for(lambda: len(numbers(scripted.publishes)) >= 20)
    assert [one for one in scripted.publishes if one.packet.dup and "/telemetry/" in one.topic] == []
    assert scripted.violations == []


@pytest.mark.parametrize(("code", "expected"), [(0x9A, (1, False)), (0x9B, (0, True))])
async def test_a_broker_that_cannot_keep_the_will_as_it_is_gets_one_that_asks_for_less(
    scripted: ScriptedBroker, state_dir: Path, code: int, expected: tuple[int, bool]
) -> None:
    scripted.scripts.append(Script(reason=code))
    async with agent(state_dir, scripted.url) as robot:
        await scripted.wait_for(lambda: scripted.connected)
        await stopped(robot)
    wills = [one.connect.will for one in scripted.connections if one.connect is not None]
    assert [(will.qos, will.retain) for will in wills if will is not None] == [(1, True), expected]


async def test_after_a_lost_session_the_backlog_goes_out_in_its_order(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    async with scripted.unreachable(), agent(state_dir, scripted.url, outbox__fresh_for=0.1) as robot:
        await feed(robot, range(2000), filling="x" * 100)
        await stopped(robot)
    scripted.scripts.append(Script(ack=lambda _packet: None, properties={"receive_maximum": 1}))
    async with agent(state_dir, scripted.url, outbox__fresh_for=0.1, broker__dead_after=60) as robot:
        # Not even `online` is acknowledged, so nothing else goes out on this connection.
        await scripted.wait_for(lambda: scripted.publishes)
        scripted.lose_sessions()
        scripted.scripts.append(Script(ack=lambda packet: None if "/telemetry/" in packet.topic else 0))
        scripted.connection.abort()
        await scripted.wait_for(lambda: numbers(scripted.publishes))
        scripted.lose_sessions()
        scripted.connection.abort()
        await scripted.wait_for(lambda: len(set(numbers(scripted.accepted))) == 2000)
    delivered = [one for one in scripted.accepted if one.connection == scripted.connections[-1].number]
    assert numbers(delivered) == list(range(2000))
    assert scripted.violations == []


async def test_an_array_that_is_refused_for_its_content_is_cut_until_only_the_culprit_is_left(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    scripted.default = Script(ack=lambda packet: 0x99 if b'"n":37,' in packet.payload else 0)
    async with scripted.unreachable(), agent(state_dir, scripted.url, outbox__fresh_for=0.1) as robot:
        await feed(robot, range(100))
        await stopped(robot)
    async with agent(state_dir, scripted.url, outbox__fresh_for=0.1) as robot:
        await scripted.wait_for(lambda: [one for one in scripted.accepted if one.topic.endswith("/loss")])
        await scripted.wait_for(lambda: len(set(numbers(scripted.accepted))) == 99)
        await stopped(robot)
    assert set(outbox_file.quarantined(state_dir / "outbox.db")) == {("imu", 1, 38)}
    assert Counter(numbers(scripted.accepted)) == Counter(set(range(100)) - {37})
    assert scripted.violations == []


async def test_what_was_refused_for_the_time_being_is_neither_retained_late_nor_sent_as_fresh_when_it_is_old(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    left = 3

    def answer(packet: Publish) -> int:
        nonlocal left
        if b'"n":0,' in packet.payload and left:
            left -= 1
            return 0x97
        return 0

    scripted.default = Script(ack=answer)
    async with agent(state_dir, scripted.url, outbox__fresh_for=2, streams__imu__retain=True) as robot:
        await feed(robot, range(1))
        await feed(robot, range(1, 2))
        await scripted.wait_for(lambda: set(numbers(scripted.accepted)) == {0, 1})
    first, *again = [one for one in scripted.publishes if 0 in numbers([one])]
    assert first.packet.retain
    assert {one.packet.retain for one in again} == {False}
    assert again[-1].topic.endswith("/telemetry/imu/backfill")


async def test_a_release_clears_an_identifier_under_which_an_earlier_process_left_a_message(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    settings: dict[str, Setting] = {"streams__imu__qos": 2, "outbox__commit_interval": 60}
    async with agent(state_dir, scripted.url, **settings) as robot:
        await scripted.wait_for(lambda: scripted.publishes)
        async with scripted.dropping_acks():
            async with AgentSocket(robot.socket) as local:
                for number in range(3):
                    await local.put("imu", n=number)
                await scripted.wait_for(lambda: len(numbers(scripted.accepted)) == 3)
            await robot.kill()
    scripted.expect_client_memory_lost()
    async with agent(state_dir, scripted.url, **settings) as robot:
        await robot.wait_for_line("link up")
        await feed(robot, range(100, 105))
        await stopped(robot)
    assert numbers(scripted.accepted) == [0, 1, 2, 100, 101, 102, 103, 104]


async def test_pubrec_for_a_packet_of_qos_1_does_not_end_it(scripted: ScriptedBroker, state_dir: Path) -> None:
    def on_packet(connection: Connection, packet: Packet) -> None:
        if isinstance(packet, Publish) and packet.topic.endswith("/imu") and packet.packet_id:
            connection.send(Pubrec(packet_id=packet.packet_id))

    confused = Script(ack=lambda packet: None if packet.topic.endswith("/imu") else 0, on_packet=on_packet)
    scripted.scripts.append(confused)
    async with agent(state_dir, scripted.url, broker__dead_after=2) as robot:
        await feed(robot, range(2))
        await robot.wait_for_line("answered packet .* with PUBREC")
        await robot.wait_for_line("link down: no answer for")
        await scripted.wait_for(lambda: {one.connection for one in scripted.accepted} >= {1, 2})
        await stopped(robot)
    assert outbox_file.waiting(state_dir / "outbox.db") == {}
    assert [one for one in scripted.violations if "PUBREL" in one.text] == []


@pytest.mark.parametrize("code", [1, 5])
async def test_a_connack_of_mqtt_3_1_1_is_no_success(scripted: ScriptedBroker, state_dir: Path, code: int) -> None:
    scripted.default = Script(hello=Hello.SILENCE, raw=bytes([0x20, 2, 0, code]))
    async with agent(state_dir, scripted.url) as robot:
        await robot.wait_for_line(
            f'return code {code}, .*the broker may know MQTT 3.1.1 only: set broker.protocol = "3.1.1"; next attempt in'
        )
        assert not any("link up" in line for line in robot.lines)


async def test_what_the_agent_says_of_itself_is_no_larger_than_the_broker_takes(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    scripted.default = Script(properties={"maximum_packet_size": 700})
    settings: dict[str, Setting] = {"streams__pose__delivery": "live", "health__interval": 0.1}
    async with agent(state_dir, scripted.url, **settings) as robot:
        for name in range(20):
            await feed(robot, range(1), stream=f"stream-{name}")
        await feed(robot, range(1), stream="pose", filling="x" * 1000)
        async with AgentSocket(robot.socket) as local:
            while (await local.status())["streams"]["pose"]["dropped"] < 1:
                await scripted.wait_for(lambda: scripted.publishes)
        await scripted.wait_for(lambda: len(numbers(scripted.accepted)) == 20)
    assert scripted.violations == []


async def test_a_ref_that_is_no_json_costs_its_line_only(scripted: ScriptedBroker, state_dir: Path) -> None:

    async with agent(state_dir, scripted.url, streams__tank__on_change={"level": 1.0}) as robot:
        await robot.wait_for_line("is up: ")
        reader, writer = await asyncio.open_unix_connection(str(robot.socket))
        for line in (
            b'{"get":"status","ref":NaN}',
            b'{"stream":"imu","fields":{"x":1},"ref":1e999}',
            b'{"stream":"tank","fields":{"level":1%b},"ref":1}' % (b"0" * 400),
            b'{"stream":"tank","fields":{"level":2%b},"ref":2}' % (b"0" * 400),
        ):
            writer.write(line + b"\n")
        async with asyncio.timeout(30):
            answers = [json.loads(await reader.readline()) for _ in range(4)]
        writer.close()
        assert [answer["ok"] for answer in answers].count(False) == 2
        assert sorted(answer.get("ref", 0) for answer in answers) == [0, 0, 1, 2]
        await stopped(robot)


async def test_a_thousand_streams_stop_no_source_and_no_start(scripted: ScriptedBroker, state_dir: Path) -> None:
    async with agent(state_dir, scripted.url) as robot:
        await robot.wait_for_line("is up: ")
        async with AgentSocket(robot.socket) as local:
            for number in range(1001):
                await local.put(f"s{number}", n=number)
            await local.answers()
            assert len(local.errors) == 1
        await stopped(robot)
    async with agent(state_dir, scripted.url, streams__cpu__enabled=True, streams__cpu__interval=0.1) as robot:
        await robot.wait_for_line("cpu: cannot open stream cpu: there are 1000 streams already")
        began = time.monotonic()
        await stopped(robot)
        assert time.monotonic() - began < 20

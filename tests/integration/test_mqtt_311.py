"""The agent before a broker that knows MQTT 3.1.1 alone, and the two versions at cross purposes."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent import sources
from agent.link.opening import Hello as Connecting
from agent.link.opening import open_session
from agent.model import Message, Server, Version
from tests.support import outbox_file
from tests.support.agent_process import AgentProcess, Setting
from tests.support.agent_socket import AgentSocket
from tests.support.connection import Connection
from tests.support.packets import Filter, Packet, Publish
from tests.support.script import Received
from tests.support.scripted import Hello, Script, ScriptedBroker
from tests.support.subscriber import records
from tests.support.wire import MQTT_3_1_1

OLD: dict[str, Setting] = {
    "device_id": "rover",
    "broker.protocol": "3.1.1",
    "broker.backoff.base": 0.05,
    "broker.backoff.cap": 0.2,
    "broker.backoff.link_cap": 0.2,
    "outbox.commit_interval": 0.05,
    "outbox.fresh_for": 60,
    **{f"streams.{name}.enabled": False for name in sources.STARTED},
}


@pytest.fixture
async def old() -> AsyncIterator[ScriptedBroker]:
    """A scripted broker that knows MQTT 3.1.1 alone."""
    async with ScriptedBroker(level=MQTT_3_1_1) as broker:
        yield broker


def agent(folder: Path, broker: ScriptedBroker, **settings: Setting) -> AgentProcess:
    extra = {key.replace("__", "."): value for key, value in settings.items()}
    return AgentProcess(folder, {**OLD, "broker.urls": [broker.url], **extra})


async def feed(robot: AgentProcess, count: int, stream: str = "imu", first: int = 1) -> None:
    """Have so many records accepted, numbered in the field `n`, and answered."""
    await robot.wait_for_line("is up: ")
    async with AgentSocket(robot.socket) as local:
        for number in range(first, first + count):
            await local.put(stream, n=number)
        await local.answers()
        assert local.errors == []


async def stopped(robot: AgentProcess) -> None:
    robot.sigterm()
    assert await robot.wait() == 0


def numbers(publishes: list[Received], stream: str = "imu") -> list[int]:
    return [row.payload["n"] for row in records(publishes) if row.stream == stream]


# The whole way.


async def test_every_delivery_arrives_as_the_older_standard_has_it(old: ScriptedBroker, state_dir: Path) -> None:
    settings: dict[str, Setting] = {
        "streams__pose__delivery": "live",
        "streams__log__delivery": "synced",
        "streams__once__qos": 2,
        "streams__last__retain": True,
        "health__interval": 0.1,
    }
    async with agent(state_dir, old, **settings) as robot:
        await robot.wait_for_line("link up")
        for stream in ("imu", "log", "once", "last", "event/bump"):
            await feed(robot, 20, stream)
        await feed(robot, 1, "pose")
        for stream in ("imu", "log", "once", "last", "event/bump", "pose"):
            wanted = list(range(1, 2 if stream == "pose" else 21))
            await old.wait_for(lambda name=stream, all_of=wanted: numbers(old.accepted, name) == all_of)
        await old.wait_for(lambda: any(one.topic.endswith("/health") for one in old.accepted))
        await stopped(robot)
    assert old.violations == []
    assert outbox_file.waiting(state_dir / "outbox.db") == {}
    connect = old.connections[0].connect
    assert connect is not None
    assert connect.will is not None
    assert (connect.client_id, connect.clean_start, connect.keep_alive) == ("rover", False, 30)
    assert (connect.will.topic, connect.will.qos, connect.will.retain) == ("device/rover/status", 1, True)
    qos = {one.topic.removeprefix("device/rover/"): (one.packet.qos, one.packet.retain) for one in old.publishes}
    assert qos["telemetry/imu"] == qos["telemetry/log"] == qos["event/bump"] == (1, False)
    assert qos["telemetry/once"] == (2, False)
    assert qos["telemetry/pose"] == qos["health"] == (0, False)
    assert qos["telemetry/last"] == qos["status"] == (1, True)


async def test_the_backlog_goes_out_in_arrays(old: ScriptedBroker, state_dir: Path) -> None:
    async with old.unreachable(), agent(state_dir, old, outbox__fresh_for=0.2) as robot:
        await feed(robot, 2000)
        await stopped(robot)
    async with agent(state_dir, old, outbox__fresh_for=0.2) as robot:
        await old.wait_for(lambda: len(numbers(old.accepted)) == 2000)
        await stopped(robot)
    assert numbers(old.accepted) == list(range(1, 2001))
    assert {one.topic for one in old.accepted if "/telemetry/" in one.topic} == {"device/rover/telemetry/imu/backfill"}
    assert old.violations == []
    assert outbox_file.waiting(state_dir / "outbox.db") == {}


@pytest.mark.parametrize("qos", [1, 2])
async def test_with_its_session_kept_what_was_in_flight_comes_again_with_dup_in_order(
    old: ScriptedBroker, state_dir: Path, qos: int
) -> None:
    async with agent(state_dir, old, streams__imu__qos=qos) as robot:
        await old.wait_for(lambda: old.publishes)
        async with old.dropping_acks():
            await feed(robot, 20)
            await old.wait_for(lambda: len(numbers(old.publishes)) == 20)
            old.connection.abort()
            await old.wait_for(lambda: len(old.connections) == 2 and old.connected)
        await old.wait_for(lambda: len(numbers(old.publishes)) == 40)
        await stopped(robot)
    telemetry = [one for one in old.publishes if "/telemetry/" in one.topic]
    assert [one.packet.dup for one in telemetry] == [False] * 20 + [True] * 20
    assert [one.packet.packet_id for one in telemetry[:20]] == [one.packet.packet_id for one in telemetry[20:]]
    assert old.connections[1].connack is not None
    assert old.connections[1].connack.session_present
    assert old.violations == []
    assert outbox_file.waiting(state_dir / "outbox.db") == {}


async def test_without_its_session_it_is_sent_anew_without_dup(old: ScriptedBroker, state_dir: Path) -> None:
    async with agent(state_dir, old) as robot:
        await old.wait_for(lambda: old.publishes)
        async with old.dropping_acks():
            await feed(robot, 20)
            await old.wait_for(lambda: len(numbers(old.publishes)) == 20)
            old.lose_sessions()
            old.connection.abort()
            await old.wait_for(lambda: len(old.connections) == 2 and old.connected)
        await old.wait_for(lambda: len(numbers(old.publishes)) == 40)
        await stopped(robot)
    assert [one for one in old.publishes if one.packet.dup] == []
    assert old.violations == []
    assert outbox_file.waiting(state_dir / "outbox.db") == {}


async def test_qos_2_arrives_exactly_once_though_connections_break_at_every_step(
    old: ScriptedBroker, state_dir: Path
) -> None:
    old.scripts.extend(Script(abort_after=count) for count in (2, 9, 4))
    old.scripts.append(Script(complete=lambda _packet: None))
    async with agent(state_dir, old, streams__imu__qos=2, broker__max_inflight=7, broker__dead_after=2) as robot:
        await feed(robot, 30)
        async with old.dropping_acks():
            await feed(robot, 30, first=31)
            await old.wait_for(lambda: len(old.connections) >= 4 and old.connected)
            old.connection.abort()
        await old.wait_for(lambda: len(set(numbers(old.accepted))) == 60)
        await stopped(robot)
    assert Counter(numbers(old.accepted)) == Counter(range(1, 61))
    assert old.violations == []
    assert outbox_file.waiting(state_dir / "outbox.db") == {}


async def test_what_an_earlier_process_left_under_an_identifier_is_released_first(
    old: ScriptedBroker, state_dir: Path
) -> None:
    async with agent(state_dir, old, streams__imu__qos=2) as robot:
        await old.wait_for(lambda: old.publishes)
        old.connection.script = Script(ack=lambda packet: None if packet.qos == 2 else 0)
        await feed(robot, 5)
        await old.wait_for(lambda: len(numbers(old.accepted)) == 5)
        await robot.kill()
    old.expect_client_memory_lost()
    old.default = Script()
    async with agent(state_dir, old, streams__imu__qos=2) as robot:
        await feed(robot, 5, first=6)
        await old.wait_for(lambda: set(numbers(old.accepted)) == set(range(1, 11)))
        await stopped(robot)
    assert old.violations == []
    assert outbox_file.waiting(state_dir / "outbox.db") == {}


async def test_a_session_receives_what_it_subscribed_to(old: ScriptedBroker) -> None:
    asked: list[Filter] = []

    def grant(item: Filter) -> int:
        asked.append(item)
        return 0x80 if item.topic == "secret" else item.qos

    old.default = Script(grant=grant)
    hello = Connecting(
        server=Server(host=old.host, port=old.port), client_id="r", username="rovér", version=Version.MQTT_3_1_1
    )
    async with open_session(hello) as session, asyncio.timeout(30):
        assert await session.subscribe("cmd/+", "secret") == (1, 0x80)
        for payload in (b"\x00", b"\x05abcde", b""):
            old.deliver("cmd/a", payload)
            inbound = await session.inbound.get()
            assert (inbound.topic, inbound.payload, inbound.qos) == ("cmd/a", payload, 1)
            session.acknowledge(inbound)
        assert await session.publish(Message(topic="t", payload=b"x")) == 0
        await session.finish(within=5)
    assert asked == [Filter(topic="cmd/+", qos=1), Filter(topic="secret", qos=1)]
    assert old.sessions["r"].outgoing == {}
    assert len(old.disconnects) == 1
    assert old.connections[0].connect is not None
    assert old.connections[0].connect.username == "rovér"
    assert old.violations == []


# The session and the will.


@pytest.mark.parametrize(
    ("settings", "clean"),
    [({}, False), ({"broker__clean_start": True}, True), ({"broker__session_expiry": 0}, True)],
    ids=["kept", "clean_start", "session_expiry 0"],
)
async def test_clean_session_is_what_the_settings_ask_for(
    old: ScriptedBroker,
    state_dir: Path,
    settings: dict[str, Setting],
    clean: bool,  # noqa: FBT001
) -> None:
    async with agent(state_dir, old, **settings) as robot:
        connect = await old.wait_for(lambda: old.connected and old.connection.connect)
        await stopped(robot)
    assert connect
    assert connect.clean_start is clean


async def test_the_will_is_due_after_a_kill_and_not_after_a_clean_stop(old: ScriptedBroker, state_dir: Path) -> None:
    for wills in (0, 1):
        async with agent(state_dir, old) as robot:
            await old.wait_for(lambda: old.connected and old.publishes)
            await (robot.kill() if wills else stopped(robot))
        await old.wait_for(lambda: not old.connected)
        assert len(old.wills) == wills
        assert len(old.disconnects) == 1


async def test_a_stop_that_could_not_say_goodbye_hangs_up_so_that_the_will_is_due(
    old: ScriptedBroker, state_dir: Path
) -> None:
    async with agent(state_dir, old) as robot:
        await old.wait_for(lambda: old.publishes)
        async with old.dropping_acks():
            await feed(robot, 5)
            await stopped(robot)
    assert old.disconnects == []
    assert len(old.wills) == len(old.connections)
    assert set(numbers(old.accepted)) == set(range(1, 6))
    assert len(outbox_file.waiting(state_dir / "outbox.db")) == 5


# Refusals.


def closing_upon(topic: str) -> Script:
    """Close, in the place of an answer, upon whatever is published on the topic."""

    def on_packet(connection: Connection, packet: Packet) -> None:
        if isinstance(packet, Publish) and packet.topic.endswith(topic):
            connection.close()

    return Script(ack=lambda packet: None if packet.topic.endswith(topic) else 0, on_packet=on_packet)


@pytest.mark.parametrize("is_clean", [False, True], ids=["session kept", "clean session"])
async def test_a_record_upon_which_the_broker_closes_each_time_is_found_and_holds_up_no_other(
    old: ScriptedBroker,
    state_dir: Path,
    is_clean: bool,  # noqa: FBT001
) -> None:
    async with old.unreachable(), agent(state_dir, old, broker__clean_start=is_clean) as robot:
        await feed(robot, 10)
        await feed(robot, 1, "secret")
        await feed(robot, 10, first=11)
        old.default = closing_upon("/secret")
        await old.start()
        await old.wait_for(lambda: set(numbers(old.accepted)) == set(range(1, 21)))
        await old.wait_for(lambda: [one for one in old.accepted if one.topic.endswith("/loss")])
        connections = len(old.connections)
        await feed(robot, 5, first=21)
        await old.wait_for(lambda: set(numbers(old.accepted)) == set(range(1, 26)))
        await stopped(robot)
        assert len(old.connections) == connections
        await old.stop()
    assert connections < 20
    assert set(outbox_file.quarantined(state_dir / "outbox.db")) == {("secret", 1, 1)}
    assert outbox_file.waiting(state_dir / "outbox.db") == {}
    assert old.violations == []


async def test_a_broker_that_closes_again_and_again_without_a_pattern_costs_no_record(
    old: ScriptedBroker, state_dir: Path
) -> None:
    def closing_after(count: int) -> Script:
        left = count

        def on_packet(connection: Connection, packet: Packet) -> None:
            nonlocal left
            left -= isinstance(packet, Publish)
            if left == 0:
                connection.close()

        return Script(on_packet=on_packet)

    async with old.unreachable(), agent(state_dir, old) as robot:
        await feed(robot, 60)
        old.scripts.extend(closing_after(1 + number % 5) for number in range(30))
        await old.start()
        await old.wait_for(lambda: set(numbers(old.accepted)) == set(range(1, 61)))
        await stopped(robot)
        await old.stop()
    assert outbox_file.quarantined(state_dir / "outbox.db") == {}
    assert outbox_file.waiting(state_dir / "outbox.db") == {}


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (2, "identifier rejected"),
        (3, "server unavailable"),
        (4, "bad user name or password"),
        (5, "not authorized"),
    ],
)
async def test_a_refused_connect_is_told_with_its_reason_and_tried_again(
    old: ScriptedBroker, state_dir: Path, code: int, told: str
) -> None:
    old.scripts.append(Script(reason=code))
    async with agent(state_dir, old) as robot:
        await robot.wait_for_line(f"refused the connection: return code {code}, {told}; next attempt in")
        await old.wait_for(lambda: old.connected)
        await stopped(robot)
    assert len(old.connections) == 2
    assert old.violations == []


@pytest.mark.parametrize("code", [6, 127])
async def test_a_return_code_that_nobody_knows_is_told_as_a_refusal(
    old: ScriptedBroker, state_dir: Path, code: int
) -> None:
    old.scripts.append(Script(hello=Hello.SILENCE, raw=bytes([0x20, 2, 0, code])))
    async with agent(state_dir, old) as robot:
        await robot.wait_for_line(f"return code {code}, which MQTT 3.1.1 does not know; next attempt in")
        await old.wait_for(lambda: old.connected)
        assert "Traceback" not in "\n".join(robot.lines)


async def test_an_agent_of_mqtt_5_is_told_the_way_out_and_keeps_trying(old: ScriptedBroker, state_dir: Path) -> None:
    async with agent(state_dir, old, broker__protocol="5") as robot:
        await feed(robot, 5)
        await robot.wait_for_line('unacceptable protocol version; .*set broker.protocol = "3.1.1"; next attempt in')
        await old.wait_for(lambda: len(old.connections) >= 3)
        await stopped(robot)
    assert {item.refused_level for item in old.connections} <= {5, None}
    async with agent(state_dir, old) as robot:
        await old.wait_for(lambda: set(numbers(old.accepted)) == set(range(1, 6)))
        await stopped(robot)
    assert old.violations == []


async def test_an_agent_of_mqtt_3_1_1_is_told_that_the_broker_knows_5_alone(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    async with agent(state_dir, scripted) as robot:
        await robot.wait_for_line('0x84 unsupported protocol version; .*set broker.protocol = "5"; next attempt in')
        await scripted.wait_for(lambda: len(scripted.connections) >= 3)
        await stopped(robot)
    assert not scripted.publishes

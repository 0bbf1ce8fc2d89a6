"""What the engine does beyond the first way: batches, QoS 2, the order and the pace of the backlog."""

import json
import zlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from agent import sources
from tests.support import outbox_file
from tests.support.agent_process import AgentProcess, Setting
from tests.support.agent_socket import AgentSocket
from tests.support.mosquitto import Mosquitto
from tests.support.script import Script
from tests.support.scripted import ScriptedBroker
from tests.support.subscriber import Subscriber, records
from tests.support.thin_link import ThinLink

QUICK: dict[str, Setting] = {
    "device_id": "rover",
    "broker.backoff.base": 0.05,
    "broker.backoff.cap": 0.2,
    "broker.backoff.link_cap": 0.2,
    "outbox.commit_interval": 0.05,
    **{f"streams.{name}.enabled": False for name in sources.STARTED},
}


@asynccontextmanager
async def agent(folder: Path, url: str, settings: dict[str, Setting]) -> AsyncIterator[AgentProcess]:
    async with AgentProcess(folder, {**QUICK, "broker.urls": [url], **settings}) as robot:
        await robot.wait_for_line("is up: ")
        yield robot


async def feed(robot: AgentProcess, stream: str, numbers: range, filling: str = "") -> None:
    async with AgentSocket(robot.socket) as local:
        for number in numbers:
            await local.put(stream, n=number, filling=filling)
        await local.answers()
        assert local.errors == []


def numbers(broker: ScriptedBroker, *, backfilled: bool | None = None) -> list[int]:
    chosen = [one for one in broker.accepted if backfilled is None or ("/backfill" in one.topic) is backfilled]
    return [row.payload["n"] for row in records(chosen)]


async def test_several_samples_go_in_one_publish_as_an_array(scripted: ScriptedBroker, state_dir: Path) -> None:
    settings: dict[str, Setting] = {
        "streams.imu.batch": 10,
        "streams.imu.batch_for": 0.3,
        "outbox.commit_interval": 2.0,
    }
    async with agent(state_dir, scripted.url, settings) as robot:
        await scripted.wait_for(lambda: scripted.connected)
        await feed(robot, "imu", range(1, 26))
        await scripted.wait_for(lambda: len(numbers(scripted)) == 25)
        robot.sigterm()
        assert await robot.wait() == 0
    sent = [one for one in scripted.accepted if one.topic == "device/rover/telemetry/imu"]
    bodies = [json.loads(one.payload) for one in sent]
    assert all(isinstance(body, dict) or 2 <= len(body) <= 10 for body in bodies)
    assert len(sent) <= 6
    assert numbers(scripted) == list(range(1, 26))
    assert scripted.violations == []
    assert outbox_file.waiting(state_dir / "outbox.db") == {}


async def test_a_batch_that_is_refused_for_good_is_told_record_by_record(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    scripted.default = Script(ack=lambda packet: 0x99 if packet.topic.endswith("/imu") else 0)
    settings: dict[str, Setting] = {"streams.imu.batch": 10, "streams.imu.batch_for": 0.2}
    async with agent(state_dir, scripted.url, settings) as robot:
        await feed(robot, "imu", range(1, 11))
        await scripted.wait_for(lambda: [one for one in scripted.accepted if one.topic.endswith("/loss")])
        robot.sigterm()
        assert await robot.wait() == 0
    assert set(outbox_file.quarantined(state_dir / "outbox.db")) == {("imu", 1, seq) for seq in range(1, 11)}


async def test_qos_2_arrives_exactly_once_though_connections_break_at_every_step(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    scripted.scripts.extend(Script(abort_after=count) for count in (2, 9, 4))
    settings: dict[str, Setting] = {"streams.imu.qos": 2, "broker.max_inflight": 7, "outbox.fresh_for": 60}
    async with agent(state_dir, scripted.url, settings) as robot:
        await feed(robot, "imu", range(1, 31))
        async with scripted.dropping_acks():
            await feed(robot, "imu", range(31, 61))
            await scripted.wait_for(lambda: scripted.connected)
            scripted.connection.abort()
        await scripted.wait_for(lambda: len(set(numbers(scripted))) == 60)
        robot.sigterm()
        assert await robot.wait() == 0
    assert Counter(numbers(scripted)) == Counter(range(1, 61))
    assert {one.packet.qos for one in scripted.publishes if "/telemetry/" in one.topic} == {2}
    assert scripted.violations == []
    assert outbox_file.waiting(state_dir / "outbox.db") == {}


async def test_a_released_message_is_released_again_and_not_sent_again(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    scripted.scripts.append(Script(complete=lambda _packet: None))
    settings: dict[str, Setting] = {"streams.imu.qos": 2, "outbox.fresh_for": 60}
    async with agent(state_dir, scripted.url, settings) as robot:
        await scripted.wait_for(lambda: scripted.connected)
        await feed(robot, "imu", range(1, 6))
        await scripted.wait_for(lambda: len(numbers(scripted)) == 5)
        async with AgentSocket(robot.socket) as local:
            assert (await local.status())["outbox"]["waiting"] == 5
        scripted.connection.abort()
        robot.sigterm()
        assert await robot.wait() == 0
    assert [one.packet.dup for one in scripted.publishes if one.topic.endswith("/imu")] == [False] * 5
    assert scripted.violations == []


async def test_qos_2_refused_at_pubrec_goes_to_quarantine(scripted: ScriptedBroker, state_dir: Path) -> None:
    scripted.default = Script(ack=lambda packet: 0x87 if packet.qos == 2 else 0)
    async with agent(state_dir, scripted.url, {"streams.imu.qos": 2}) as robot:
        await feed(robot, "imu", range(1, 4))
        await scripted.wait_for(lambda: [one for one in scripted.accepted if one.topic.endswith("/loss")])
        robot.sigterm()
        assert await robot.wait() == 0
    assert len(outbox_file.quarantined(state_dir / "outbox.db")) == 3
    assert scripted.violations == []


async def test_qos_2_through_a_real_broker(mosquitto: Mosquitto, state_dir: Path) -> None:
    # mosquitto_sub 2.0 gives up on more than a few QoS 2 messages at a time, so it takes them at QoS 1.
    async with Subscriber(mosquitto.port) as subscriber:
        async with agent(state_dir, mosquitto.url, {"streams.imu.qos": 2}) as robot:
            await robot.wait_for_line("link up")
            await feed(robot, "imu", range(1, 501))
            await subscriber.wait_for(lambda got: len(records(got)) >= 500)
            robot.sigterm()
            assert await robot.wait() == 0
        await subscriber.wait_for(lambda got: got[-1].topic.endswith("/status"))
    assert [row.payload["n"] for row in records(subscriber.messages)] == list(range(1, 501))
    assert outbox_file.waiting(state_dir / "outbox.db") == {}


async def test_the_backlog_can_be_compressed(scripted: ScriptedBroker, state_dir: Path) -> None:
    settings: dict[str, Setting] = {"outbox.compress": True, "outbox.fresh_for": 0.2}
    async with scripted.unreachable(), agent(state_dir, scripted.url, settings) as robot:
        await feed(robot, "imu", range(1, 501), filling="x" * 100)
        robot.sigterm()
        assert await robot.wait() == 0
    async with agent(state_dir, scripted.url, settings):
        await scripted.wait_for(lambda: len(numbers(scripted)) == 500)
    sent = [one for one in scripted.accepted if "/telemetry/" in one.topic]
    assert {one.topic for one in sent} == {"device/rover/telemetry/imu/backfill.z"}
    assert numbers(scripted) == list(range(1, 501))
    assert sum(len(one.payload) for one in sent) < sum(len(zlib.decompress(one.payload)) for one in sent) / 4


async def test_a_compressed_array_that_is_too_large_is_cut_until_it_fits(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    scripted.default = Script(properties={"maximum_packet_size": 700})
    settings: dict[str, Setting] = {"outbox.compress": True, "outbox.fresh_for": 0.2}
    async with scripted.unreachable(), agent(state_dir, scripted.url, settings) as robot:
        await feed(robot, "imu", range(1, 301))
        robot.sigterm()
        assert await robot.wait() == 0
    async with agent(state_dir, scripted.url, settings):
        await scripted.wait_for(lambda: len(numbers(scripted)) == 300)
    assert numbers(scripted) == list(range(1, 301))
    assert scripted.violations == []


async def test_of_the_backlog_events_and_high_priorities_go_first_and_the_lowest_still_gets_a_turn(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    settings: dict[str, Setting] = {
        "outbox.fresh_for": 0.2,
        "streams.bulk.priority": 1,
        "streams.pose.priority": 9,
        "broker.max_inflight": 1,
    }
    async with scripted.unreachable(), agent(state_dir, scripted.url, settings) as robot:
        await feed(robot, "bulk", range(3000), filling="x" * 100)
        await feed(robot, "event/bump", range(30))
        await feed(robot, "pose", range(3000), filling="x" * 100)
        robot.sigterm()
        assert await robot.wait() == 0
    async with agent(state_dir, scripted.url, settings):
        await scripted.wait_for(lambda: len(numbers(scripted)) == 6030)
    order = [row.stream for row in records(scripted.accepted)]
    assert order[0] == "pose"
    last = {stream: len(order) - order[::-1].index(stream) for stream in ("pose", "bulk", "event/bump")}
    assert last["pose"] < last["bulk"]
    assert last["event/bump"] < last["bulk"]
    assert order.index("bulk") < last["pose"]
    assert scripted.violations == []


async def test_fresh_records_pass_a_backlog_whose_rate_is_limited(scripted: ScriptedBroker, state_dir: Path) -> None:
    settings: dict[str, Setting] = {"outbox.fresh_for": 0.3, "outbox.backlog_rate": "40KiB"}
    async with scripted.unreachable(), agent(state_dir, scripted.url, settings) as robot:
        await feed(robot, "imu", range(600), filling="x" * 200)
        robot.sigterm()
        assert await robot.wait() == 0
    async with agent(state_dir, scripted.url, settings) as robot:
        await scripted.wait_for(lambda: numbers(scripted, backfilled=True))
        await feed(robot, "pose", range(5))
        await scripted.wait_for(lambda: numbers(scripted, backfilled=False))
        assert len(numbers(scripted, backfilled=True)) < 600
        await scripted.wait_for(lambda: len(numbers(scripted, backfilled=True)) == 600)
    assert scripted.violations == []


async def test_what_tells_nothing_new_is_answered_with_the_record_that_told_it(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    settings: dict[str, Setting] = {"streams.tank.on_change": {"level": 1.0}, "streams.tank.heartbeat": 0}
    async with agent(state_dir, scripted.url, settings) as robot, AgentSocket(robot.socket) as local:
        for level in (50.0, 50.4, 49.1, 52.0, 51.5):
            await local.put("tank", level=level)
        await local.answers()
        assert sorted(local.kept) == [("tank", 1, 1)] * 3 + [("tank", 1, 2)] * 2
        await scripted.wait_for(lambda: len(records(scripted.accepted)) == 2)
        assert [row.payload["level"] for row in records(scripted.accepted)] == [50.0, 52.0]


async def test_streams_without_a_table_follow_the_defaults(scripted: ScriptedBroker, state_dir: Path) -> None:
    settings: dict[str, Setting] = {"ingest.defaults.delivery": "live", "streams.log.delivery": "stored"}
    async with agent(state_dir, scripted.url, settings) as robot:
        await scripted.wait_for(lambda: scripted.connected)
        await feed(robot, "unheard-of", range(1))
        await feed(robot, "log", range(1))
        await feed(robot, "event/bump", range(1))
        await scripted.wait_for(lambda: len(records(scripted.accepted)) == 3)
    qos = {one.topic.removeprefix("device/rover/"): one.packet.qos for one in scripted.accepted}
    assert qos["telemetry/unheard-of"] == 0
    assert qos["telemetry/log"] == qos["event/bump"] == 1


async def test_a_backlog_over_a_thin_link_drives_it_into_no_time_out(scripted: ScriptedBroker, state_dir: Path) -> None:
    settings: dict[str, Setting] = {"outbox.fresh_for": 2.0, "broker.dead_after": 3}
    async with scripted.unreachable(), agent(state_dir, scripted.url, settings) as robot:
        await feed(robot, "imu", range(1000), filling="x" * 200)
        robot.sigterm()
        assert await robot.wait() == 0
    # 256 kbit/s; the kernel's buffers would take all of it at once.
    async with ThinLink(scripted.port, bytes_per_second=32_000) as link, agent(state_dir, link.url, settings) as robot:
        await scripted.wait_for(lambda: len(numbers(scripted, backfilled=True)) > 200)
        before = len(numbers(scripted, backfilled=True))
        await feed(robot, "pose", range(1))
        await scripted.wait_for(lambda: numbers(scripted, backfilled=False))
        # What is on its way is a second's worth at most, so a fresh record overtakes nearly all of the backlog.
        assert len(numbers(scripted, backfilled=True)) - before < 250
        await scripted.wait_for(lambda: len(set(numbers(scripted, backfilled=True))) == 1000, timeout=60)
        assert link.connections == 1
    assert numbers(scripted, backfilled=True) == list(range(1000))
    assert scripted.violations == []

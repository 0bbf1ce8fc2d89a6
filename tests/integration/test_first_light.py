"""The whole way: the agent as a process, a real mosquitto, and mosquitto_sub as the one who receives."""

import asyncio
import itertools
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from agent import sources
from tests.support import outbox_file
from tests.support.agent_process import AgentProcess, Setting
from tests.support.agent_socket import AgentSocket
from tests.support.mosquitto import Mosquitto
from tests.support.subscriber import Message, Row, Subscriber, records

QUIET: dict[str, Setting] = {f"streams.{name}.enabled": False for name in sources.STARTED}
"""No readings of its own: the test alone feeds the agent."""
FAST: dict[str, Setting] = {"broker.backoff.base": 0.05, "broker.backoff.cap": 0.5, "broker.backoff.link_cap": 0.5}


def agent(folder: Path, broker: Mosquitto, settings: dict[str, Setting]) -> AgentProcess:
    return AgentProcess(folder, {"device_id": "rover", "broker.urls": [broker.url], **FAST, **settings})


def numbers(rows: Iterable[Row]) -> dict[str, list[int]]:
    """The sequence numbers by stream, in the order of arrival."""
    by_stream: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        by_stream[row.stream].append(row.seq)
    return by_stream


def newest(messages: Sequence[Message], topic: str) -> Message:
    return [message for message in messages if message.topic == topic][-1]


async def test_readings_arrive_in_order_as_the_contract_has_them(mosquitto: Mosquitto, state_dir: Path) -> None:
    settings: dict[str, Setting] = {f"streams.{name}.interval": 0.1 for name in sources.STARTED}
    before = time.time_ns() // 1_000_000
    async with Subscriber(mosquitto.port) as subscriber, agent(state_dir, mosquitto, settings) as robot:
        await subscriber.wait_for(lambda got: all(len(numbers(records(got))[name]) >= 10 for name in ("cpu", "host")))
        robot.sigterm()
        assert await robot.wait() == 0
        await subscriber.wait_for(lambda got: got[-1].topic == "device/rover/status")
    rows = records(subscriber.messages)
    for stream, seqs in numbers(rows).items():
        assert seqs == list(range(1, len(seqs) + 1)), stream
    for message in subscriber.messages:
        assert re.fullmatch(
            r"device/rover/(telemetry/(cpu|memory|disk|network|thermal|host)|status|health|state|get_state)",
            message.topic,
        )
        assert message.properties["content-type"] == "application/json"
        assert not message.retain
    after = time.time_ns() // 1_000_000
    for row in rows:
        assert list(row.payload)[:3] == ["ts", "epoch", "seq"]
        assert before <= row.payload["ts"] <= after
        assert row.epoch == 1
    assert {message.qos for message in subscriber.messages if "/telemetry/" in message.topic} == {1}
    assert isinstance(next(row.payload["cpu_percent"] for row in rows[-20:] if row.stream == "cpu"), float)
    assert outbox_file.waiting(state_dir / "outbox.db") == {}


async def test_the_status_is_retained_online_while_it_runs_and_offline_after_a_clean_stop(
    mosquitto: Mosquitto, state_dir: Path
) -> None:
    async with Subscriber(mosquitto.port) as subscriber:
        async with agent(state_dir, mosquitto, {**QUIET, "broker.will_delay": 0}) as robot:
            await subscriber.wait_for(lambda got: any(message.topic.endswith("/status") for message in got))
            online = newest(subscriber.messages, "device/rover/status").json()
            async with Subscriber(mosquitto.port, client_id="late") as late:
                await late.wait_for(len)
                assert late.messages[0].retain
                assert late.messages[0].json() == online
            robot.sigterm()
            assert await robot.wait() == 0
        await subscriber.wait_for(lambda got: newest(got, "device/rover/status").json()["status"] != "online")
        offline = newest(subscriber.messages, "device/rover/status").json()
        async with Subscriber(mosquitto.port, client_id="later") as later:
            await later.wait_for(len)
            assert later.messages[0].json() == offline
    assert (online["status"], online["epoch"], online["connection"]) == ("online", 1, 1)
    assert set(online) == {"status", "epoch", "connection", "ts", "version"}
    assert (offline["status"], offline["epoch"], offline["connection"]) == ("offline", 1, 1)
    assert offline["reason"] == "stopped"
    assert [m.json()["status"] for m in subscriber.messages if m.topic.endswith("/status")] == ["online", "offline"]


async def test_a_robot_that_dies_is_told_lost_by_its_will(mosquitto: Mosquitto, state_dir: Path) -> None:
    async with (
        Subscriber(mosquitto.port) as subscriber,
        agent(state_dir, mosquitto, {**QUIET, "broker.will_delay": 0}) as robot,
    ):
        await subscriber.wait_for(lambda got: any(message.topic.endswith("/status") for message in got))
        await robot.kill()
        await subscriber.wait_for(lambda got: newest(got, "device/rover/status").json()["status"] != "online")
        lost = newest(subscriber.messages, "device/rover/status")
    assert lost.json() == {"status": "lost", "epoch": 1, "connection": 1}
    assert lost.qos == 1


async def test_health_tells_the_figures(mosquitto: Mosquitto, state_dir: Path) -> None:
    settings: dict[str, Setting] = {"streams.cpu.interval": 0.1, "health.interval": 0.2}
    async with Subscriber(mosquitto.port) as subscriber, agent(state_dir, mosquitto, settings):
        got = await subscriber.wait_for(
            lambda got: [m for m in got if m.topic.endswith("/health") and m.json()["streams"]["cpu"]["delivered"] > 2]
        )
    health = got[0]
    assert (health.qos, health.retain) == (0, False)
    body = health.json()
    assert (body["epoch"], body["link"]["state"], body["link"]["connection"]) == (1, "up", 1)
    assert body["streams"]["cpu"]["accepted"] >= body["streams"]["cpu"]["delivered"]


async def test_nothing_is_lost_when_the_broker_is_killed_mid_stream_and_started_again(
    mosquitto: Mosquitto, state_dir: Path
) -> None:
    settings: dict[str, Setting] = {
        **{f"streams.{name}.interval": 0.05 for name in sources.STARTED},
        "outbox.commit_interval": 0.1,
        "outbox.fresh_for": 0.5,
    }
    async with Subscriber(mosquitto.port) as subscriber, agent(state_dir, mosquitto, settings) as robot:
        await subscriber.wait_for(lambda got: len(records(got)) >= 50)
        # What the broker has taken over and not passed on yet would go with it: that loss would be the broker's.
        robot.child.signal(19)
        await mosquitto.save()
        robot.child.signal(18)
        seen = len(subscriber.messages)
        await subscriber.wait_for(lambda got: len(got) > seen)
        await mosquitto.kill()
        await robot.wait_for_line("link down")
        async with AgentSocket(robot.socket) as local:
            while (await local.status())["outbox"]["waiting"] < 100:  # noqa: ASYNC110  the agent is asked, not awaited
                await asyncio.sleep(0.05)
        await mosquitto.restart()
        await robot.wait_for_line("link up, connection (?!1 )")
        await subscriber.wait_subscribed(2)
        robot.sigterm()
        assert await robot.wait() == 0
        accepted = outbox_file.accepted(state_dir / "outbox.db")
        rest = outbox_file.waiting(state_dir / "outbox.db")
        expected = {(name, 1, seq) for name, count in accepted.items() for seq in range(1, count + 1)} - set(rest)
        await subscriber.wait_for(lambda got: expected <= {row[:3] for row in records(got)})
    backfilled = [message for message in subscriber.messages if message.topic.endswith("/backfill")]
    assert backfilled
    assert all(isinstance(message.json(), list) and message.qos == 1 for message in backfilled)
    for lane in (True, False):
        firsts: dict[str, int] = {}
        for row in records(m for m in subscriber.messages if m.topic.endswith("/backfill") is lane):
            if row.seq not in range(1, firsts.get(row.stream, 0) + 1):
                firsts[row.stream] = row.seq
        assert firsts


async def burst(local: AgentSocket, robot: AgentProcess) -> None:
    """Send until the agent, which is told to end meanwhile, closes the socket."""
    for number in itertools.count():
        await local.put("imu", n=number, filling="x" * 200)
        if number == 3_000:
            robot.sigterm()


async def test_sigterm_mid_burst_keeps_the_rest_and_the_will_is_not_fired(
    mosquitto: Mosquitto, state_dir: Path
) -> None:
    settings: dict[str, Setting] = {**QUIET, "broker.will_delay": 0}
    async with Subscriber(mosquitto.port) as subscriber:
        async with agent(state_dir, mosquitto, settings) as robot:
            await robot.wait_for_line("link up")
            async with AgentSocket(robot.socket) as local:
                with pytest.raises(ConnectionError):
                    await burst(local, robot)
            assert await robot.wait() == 0
        await subscriber.wait_for(lambda got: got and newest(got, "device/rover/status").json()["status"] == "offline")
        accepted = outbox_file.accepted(state_dir / "outbox.db")["imu"]
        rest = outbox_file.waiting(state_dir / "outbox.db")
        assert accepted > 0
        expected = {("imu", 1, seq) for seq in range(1, accepted + 1)} - set(rest)
        await subscriber.wait_for(lambda got: expected <= {row[:3] for row in records(got)})
        async with agent(state_dir, mosquitto, settings) as robot:
            await subscriber.wait_for(lambda got: newest(got, "device/rover/status").json()["epoch"] == 2)
            await subscriber.wait_for(lambda got: set(rest) <= {row[:3] for row in records(got)})
        statuses = [m.json()["status"] for m in subscriber.messages if m.topic.endswith("/status")]
    assert statuses[:3] == ["online", "offline", "online"]


async def test_sigterm_while_the_broker_is_frozen_keeps_everything_and_ends_in_time(
    mosquitto: Mosquitto, state_dir: Path
) -> None:
    async with agent(state_dir, mosquitto, QUIET) as robot:
        await robot.wait_for_line("link up")
        mosquitto.freeze()
        async with AgentSocket(robot.socket) as local:
            for number in range(5_000):
                await local.put("imu", n=number)
            await local.answers()
            assert len(local.kept) == 5_000
        robot.sigterm()
        assert await robot.wait() == 0
    assert len(outbox_file.waiting(state_dir / "outbox.db")) == 5_000
    mosquitto.thaw()

"""The state, reported and desired, and its resynchronisation after every connect (contract, section 6)."""

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_commands import PREFIX, SETTINGS, agent, answer, send, stopped, subscribed
from tests.support.agent_process import AgentProcess, Setting
from tests.support.agent_socket import AgentSocket
from tests.support.child import program
from tests.support.mosquitto import Mosquitto
from tests.support.scripted import ScriptedBroker
from tests.support.subscriber import records


def asked(broker: ScriptedBroker) -> list[dict[str, Any]]:
    return [json.loads(one.payload) for one in broker.publishes if one.topic == f"{PREFIX}/get_state"]


def correlations(broker: ScriptedBroker) -> list[bytes]:
    return [
        bytes(one.packet.properties["correlation_data"])  # type: ignore[arg-type]
        for one in broker.publishes
        if one.topic == f"{PREFIX}/get_state"
    ]


def states(broker: ScriptedBroker) -> list[dict[str, Any]]:
    return [json.loads(one.payload) for one in broker.accepted if one.topic == f"{PREFIX}/state"]


def reply(broker: ScriptedBroker, body: object, correlation_data: bytes | None = None) -> None:
    properties = {} if correlation_data is None else {"correlation_data": correlation_data}
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    broker.deliver(f"{PREFIX}/desired", payload, properties=properties)


async def test_right_after_a_connect_it_asks_and_a_reply_lets_commands_through(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    async with agent(state_dir, scripted, resync__timeout=60) as robot:
        await subscribed(scripted)
        send(scripted, "flush", {"id": "f"})
        send(scripted, "ping", {"id": "p"})
        await scripted.wait_for(lambda: asked(scripted))
        [pong] = await answer(scripted)  # ping waits for nothing
        assert pong["id"] == "p"
        [request] = [one for one in scripted.publishes if one.topic == f"{PREFIX}/get_state"]
        assert request.packet.properties["response_topic"] == f"{PREFIX}/desired"
        reply(scripted, {"version": 1, "desired": {}}, b"another correlation")
        reply(scripted, {"version": 2, "desired": {}}, correlations(scripted)[0])
        _, flushed = await answer(scripted, 2)
        assert flushed["status"] == "succeeded"
        async with AgentSocket(robot.socket) as local:
            assert (await local.status())["resync"] == "done"
        await stopped(robot)
    assert asked(scripted)[0] == {
        "epoch": 1, "connection": 1, "reported_version": 2, "desired_version": 0, "from": "rover", "sent": {},
    }  # fmt: skip
    assert scripted.violations == []


@pytest.mark.parametrize("on_timeout", ["proceed", "reject"])
async def test_without_a_reply_it_asks_again_and_then_does_what_the_settings_say(
    scripted: ScriptedBroker, state_dir: Path, on_timeout: str
) -> None:
    async with agent(state_dir, scripted, resync__timeout=2, resync__on_timeout=on_timeout) as robot:
        await subscribed(scripted)
        send(scripted, "flush", {"id": "f"})
        [result] = await answer(scripted)
        assert len(asked(scripted)) >= 2
        assert len(set(correlations(scripted))) == 1
        async with AgentSocket(robot.socket) as local:
            assert (await local.status())["resync"] == "timed out"
        await stopped(robot)
    assert result["status"] == {"proceed": "succeeded", "reject": "rejected"}[on_timeout]


async def test_a_desired_state_is_applied_once_told_and_kept_across_restarts(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    settings: dict[str, Setting] = {"streams.cpu.enabled": True, "streams.cpu.interval": 3600}
    async with agent(state_dir, scripted, **{k.replace(".", "__"): v for k, v in settings.items()}) as robot:
        await subscribed(scripted)
        desired = {
            "streams": {"cpu": {"interval": "50ms", "delivery": "synced"}, "imu": {"interval": 1}},
            "log": {"level": "debug"},
            "motor": {"speed": 3},
        }
        reply(scripted, {"version": 5, "desired": desired})
        await scripted.wait_for(lambda: states(scripted) and states(scripted)[-1]["desired_version"] == 5)
        told = states(scripted)[-1]["reported"]["desired"]
        assert told == {
            "version": 5,
            "applied": {"streams.cpu.interval": "50ms"},
            "refused": {
                "streams.cpu.delivery": "it may not be set from afar: resync.remote does not list it",
                "streams.imu.interval": "no source is read for it",
                "log.level": "it may not be set from afar: resync.remote does not list it",
                "motor.speed": "it cannot be set from afar",
            },
        }
        await scripted.wait_for(lambda: len([row for row in records(scripted.accepted) if row.stream == "cpu"]) >= 5)
        reply(scripted, {"version": 5, "desired": {}})
        reply(scripted, {"version": 4, "desired": {"streams": {"cpu": {"interval": 9}}}})
        send(scripted, "get_state", {"id": "s"})
        [result] = await answer(scripted)
        assert result["result"]["desired_version"] == 5
        assert result["result"]["reported"]["desired"] == told
        version = result["result"]["version"]
        await stopped(robot)
        seen = len(records(scripted.accepted))
        async with robot:
            scripted.expect_client_memory_lost()
            await scripted.wait_for(lambda: len(records(scripted.accepted)) >= seen + 5)
            send(scripted, "get_state", {"id": "t"})
            after = (await answer(scripted, 2))[1]["result"]
            await stopped(robot)
    assert (after["desired_version"], after["reported"]["desired"]) == (5, told)
    assert after["version"] >= version
    versions = [one["version"] for one in states(scripted)]
    assert versions == sorted(versions)
    assert asked(scripted)[-1]["desired_version"] == 5


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"7", {"desired": {}}, {"version": True, "desired": {}}, {"version": 1, "desired": []},
             {"version": -1, "desired": {}}, {"received": {"imu": [[1, 2]]}}, {"received": {"imu": 7}}, {"received": 7},
             {"received": {"imu": [[1, "a", 2]]}}, {"received": {"nobody": [[1, 1, 2]]}}],
)  # fmt: skip
async def test_rubbish_on_the_topic_desired_costs_nothing(
    scripted: ScriptedBroker, state_dir: Path, body: object
) -> None:
    async with agent(state_dir, scripted) as robot:
        await subscribed(scripted)
        reply(scripted, body)
        send(scripted, "ping", {"id": "p"})
        [result] = await answer(scripted)
        assert result["status"] == "succeeded"
        await stopped(robot)


async def test_the_state_is_retained_and_published_only_when_it_changes_or_the_broker_lost_it(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    async with agent(state_dir, scripted, streams__mode__state=True) as robot:
        await scripted.wait_for(lambda: states(scripted))
        async with AgentSocket(robot.socket) as local:
            for name in ("docked", "docked", "driving"):
                await local.put("mode", name=name)
                await local.answers()
        await scripted.wait_for(lambda: states(scripted)[-1]["reported"].get("mode") == {"name": "driving"})
        before = len(states(scripted))
        send(scripted, "ping", {})  # by its answer, the state's PUBACK has come
        await answer(scripted)
        scripted.connection.abort()
        await scripted.wait_for(lambda: len(asked(scripted)) >= 2)
        assert len(states(scripted)) == before
        scripted.lose_sessions()
        scripted.connection.abort()
        await scripted.wait_for(lambda: len(states(scripted)) > before)
        await stopped(robot)
    assert all(one.packet.retain for one in scripted.publishes if one.topic == f"{PREFIX}/state")
    versions = [one["version"] for one in states(scripted)]
    assert versions[-1] == versions[-2]
    assert len([one for one in records(scripted.accepted) if one.stream == "mode"]) == 3


def counted(imu: dict[str, int]) -> bool:
    return imu["delivered"] >= 1900 and imu["delivered"] + imu["waiting"] == imu["accepted"]


async def test_what_the_controller_has_already_is_not_sent_again(scripted: ScriptedBroker, state_dir: Path) -> None:
    async with scripted.unreachable(), agent(state_dir, scripted, outbox__fresh_for=0.1) as robot:
        await robot.wait_for_line("is up: ")
        async with AgentSocket(robot.socket) as local:
            for number in range(3000):
                await local.put("imu", n=number)
            await local.answers()
        await stopped(robot)
    async with agent(state_dir, scripted, outbox__fresh_for=0.1, outbox__backlog_rate="2KiB") as robot:
        await scripted.wait_for(lambda: asked(scripted) and asked(scripted)[-1]["epoch"] == 2)
        reply(scripted, {"received": {"imu": [[1, 1, 1000]]}})  # a push: it says nothing of what arrived
        received = {"received": {"imu": [[1, 1001, 1500], [1, 1601, 3000], [9, 1, 5]]}}
        reply(scripted, received, correlations(scripted)[-1])
        async with AgentSocket(robot.socket) as local, asyncio.timeout(30):
            # It is counted at once, and leaves the disk with the next transaction.
            while not counted(figures := (await local.status())["streams"]["imu"]):  # noqa: ASYNC110  figures
                await asyncio.sleep(0.05)
        assert figures["accepted"] == 3000
        await stopped(robot)
    arrived = {row.seq for row in records(scripted.accepted)}
    assert not arrived & set(range(1701, 3001))


async def test_the_request_stays_small_with_many_streams(scripted: ScriptedBroker, state_dir: Path) -> None:
    async with agent(state_dir, scripted) as robot:
        await scripted.wait_for(lambda: scripted.connected)
        async with AgentSocket(robot.socket) as local:
            for number in range(120):
                await local.put(f"a-stream-with-a-name-{number}", n=1)
            await local.answers()
        await scripted.wait_for(lambda: len(records(scripted.accepted)) == 120)
        scripted.connection.abort()
        await scripted.wait_for(lambda: asked(scripted) and asked(scripted)[-1]["sent"])
        await stopped(robot)
    request = [one for one in scripted.publishes if one.topic == f"{PREFIX}/get_state"][-1]
    assert len(request.payload) < 2048
    assert len(asked(scripted)[-1]["sent"]) > 40
    assert all(value == [1, 1] for value in asked(scripted)[-1]["sent"].values())


async def test_a_client_that_nobody_here_wrote_gets_the_state(mosquitto: Mosquitto, state_dir: Path) -> None:
    async with AgentProcess(state_dir, {**SETTINGS, "broker.urls": [mosquitto.url]}) as robot:
        await robot.wait_for_line("resynchronising with the controller: timed out")
        argv = [
            program("mosquitto_rr", package="mosquitto-clients"), "-V", "5", "-p", str(mosquitto.port),
            "-t", f"{PREFIX}/cmd/get_state", "-e", "answers/7", "-m", "{}", "-W", "30",
        ]  # fmt: skip
        asking = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
        said, _ = await asking.communicate()
        await stopped(robot)
    answered = json.loads(said)
    assert answered["status"] == "succeeded"
    assert answered["result"]["reported"]["agent"]["clock"] in {"synced", "unsynced"}


@pytest.mark.parametrize(
    "body",
    [
        b'{"correlation_data":"\\ud800"}',
        b'{"version":9223372036854775808,"desired":{}}',
        b'{"version":3,"desired":{"a":%bNaN%b}}' % (b"[" * 700, b"]" * 700),
        b'{"version":3,"desired":{"a":%b%b}}' % (b"[" * 900, b"]" * 900),
        b'{"version":3,"desired":{"a":"\\ud800"}}',
        b'{"received":{"imu":[[1,1,%b]],"\\ud800":[]}}' % (b"9" * 4000),
    ],
    ids=["half a surrogate pair", "beyond 63 bits", "deep and not finite", "deep", "not UTF-8", "long numbers"],
)
async def test_rubbish_on_desired_is_left_alone_and_costs_nothing_else(
    scripted: ScriptedBroker, state_dir: Path, body: bytes
) -> None:
    async with agent(state_dir, scripted) as robot:
        await subscribed(scripted)
        await scripted.wait_for(lambda: asked(scripted))
        reply(scripted, body)
        send(scripted, "get_state", {"id": "s"})
        [result] = await answer(scripted)
        await stopped(robot)
    assert result["result"]["desired_version"] == 0


async def test_a_late_reply_lets_commands_through_again_that_were_turned_away(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    async with agent(state_dir, scripted, resync__timeout=0.3, resync__on_timeout="reject") as robot:
        await subscribed(scripted)
        send(scripted, "flush", {"id": "f"})
        [result] = await answer(scripted)
        assert result["status"] == "rejected"
        reply(scripted, {}, correlations(scripted)[-1])
        send(scripted, "flush", {"id": "g"})
        [_, result] = await answer(scripted, 2)
        assert result["status"] == "succeeded"
        await stopped(robot)

"""MQTT 3.1.1 spoken to a real broker, which knows both versions; mosquitto_sub receives over MQTT 5."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent import sources
from tests.support import outbox_file
from tests.support.agent_process import AgentProcess, Setting
from tests.support.agent_socket import AgentSocket
from tests.support.child import program
from tests.support.mosquitto import PACKAGE, Mosquitto
from tests.support.subscriber import Message, Subscriber, records

OLD: dict[str, Setting] = {
    "device_id": "rover",
    "broker.protocol": "3.1.1",
    "broker.backoff.base": 0.05,
    "broker.backoff.cap": 0.5,
    "broker.backoff.link_cap": 0.5,
    "outbox.commit_interval": 0.05,
    **{f"streams.{name}.enabled": False for name in sources.STARTED},
}


@asynccontextmanager
async def agent(folder: Path, broker: Mosquitto, **settings: Setting) -> AsyncIterator[AgentProcess]:
    extra = {key.replace("__", "."): value for key, value in settings.items()}
    async with AgentProcess(folder, {**OLD, "broker.urls": [broker.url], **extra}) as robot:
        await robot.wait_for_line("is up: ")
        yield robot


async def feed(robot: AgentProcess, numbers: range, stream: str = "imu", filling: str = "") -> None:
    async with AgentSocket(robot.socket) as local:
        for number in numbers:
            await local.put(stream, n=number, filling=filling)
        await local.answers()
        assert local.errors == []


async def stopped(robot: AgentProcess) -> None:
    robot.sigterm()
    assert await robot.wait() == 0


def numbers(messages: list[Message], stream: str = "imu") -> list[int]:
    return [row.payload["n"] for row in records(messages) if row.stream == stream]


def statuses(messages: list[Message]) -> list[str]:
    return [message.json()["status"] for message in messages if message.topic == "device/rover/status"]


async def test_every_delivery_arrives_and_the_broker_says_that_it_was_mqtt_3_1_1(
    mosquitto: Mosquitto, state_dir: Path
) -> None:
    settings: dict[str, Setting] = {
        "streams__pose__delivery": "live",
        "streams__log__delivery": "synced",
        "streams__once__qos": 2,
    }
    async with Subscriber(mosquitto.port) as subscriber:
        async with agent(state_dir, mosquitto, **settings) as robot:
            await robot.wait_for_line("link up")
            for stream in ("imu", "log", "once"):
                await feed(robot, range(200), stream)
            await feed(robot, range(1), "pose")
            await subscriber.wait_for(lambda got: len(records(got)) >= 601)
            async with Subscriber(mosquitto.port, client_id="late", topic="device/rover/status") as late:
                await late.wait_for(len)
                assert (late.messages[0].retain, statuses(late.messages)) == (True, ["online"])
            await stopped(robot)
        await subscriber.wait_for(lambda got: statuses(got)[-1:] == ["offline"])
    for stream in ("imu", "log", "once"):
        assert numbers(subscriber.messages, stream) == list(range(200))
    assert numbers(subscriber.messages, "pose") == [0]
    assert statuses(subscriber.messages) == ["online", "offline"]
    assert {message.properties.get("content-type") for message in subscriber.messages} == {None}
    assert len(mosquitto.matching(r"as rover \(p[24], c0, k30\)")) == 1
    assert outbox_file.waiting(state_dir / "outbox.db") == {}


async def test_a_kill_is_told_by_the_will_at_once(mosquitto: Mosquitto, state_dir: Path) -> None:
    async with Subscriber(mosquitto.port) as subscriber, agent(state_dir, mosquitto, broker__will_delay=3600) as robot:
        await subscriber.wait_for(lambda got: statuses(got) == ["online"])
        await robot.kill()
        await subscriber.wait_for(lambda got: statuses(got) == ["online", "lost"])
    assert subscriber.messages[-1].json() == {"status": "lost", "epoch": 1, "connection": 1}


@pytest.mark.parametrize("is_kept", [True, False], ids=["session kept", "session lost"])
async def test_what_was_in_flight_when_the_broker_died_comes_again_with_dup_where_the_session_is_kept(
    tmp_path: Path,
    state_dir: Path,
    is_kept: bool,  # noqa: FBT001
) -> None:
    async with (
        Mosquitto(tmp_path / "mosquitto", extra=["log_type all"]) as broker,
        Subscriber(broker.port) as subscriber,
        agent(state_dir, broker, outbox__fresh_for=60) as robot,
    ):
        await subscriber.wait_for(lambda got: statuses(got) == ["online"])
        if is_kept:
            await broker.save()
        broker.freeze()
        await feed(robot, range(100))
        robot.child.signal(signal.SIGSTOP)  # so that it does not come before the subscriber
        await broker.kill()
        await broker.restart()
        await subscriber.wait_subscribed(2)
        robot.child.signal(signal.SIGCONT)
        await subscriber.wait_for(lambda got: set(numbers(got)) == set(range(100)))
        await stopped(robot)
        again = broker.matching(r"Received PUBLISH from rover \(d1, q1, .*telemetry/imu")
    assert bool(again) is is_kept
    assert sorted(numbers(subscriber.messages)) == list(range(100))
    assert outbox_file.waiting(state_dir / "outbox.db") == {}


async def test_a_backlog_with_qos_2_is_drained_through_a_window_that_the_broker_does_not_tell(
    tmp_path: Path, state_dir: Path
) -> None:
    async with Mosquitto(tmp_path / "mosquitto", extra=["max_inflight_messages 20"]) as broker:
        await broker.stop()
        async with agent(state_dir, broker, outbox__fresh_for=600, streams__once__qos=2) as robot:
            await feed(robot, range(2000))
            await feed(robot, range(500), "once")
            robot.child.signal(signal.SIGSTOP)
            await broker.restart()
            async with Subscriber(broker.port) as subscriber:
                robot.child.signal(signal.SIGCONT)
                await subscriber.wait_for(lambda got: len(records(got)) == 2500)
                await stopped(robot)
                assert numbers(subscriber.messages) == list(range(2000))
                assert numbers(subscriber.messages, "once") == list(range(500))
        assert len(broker.matching(" as rover ")) == 1
    assert outbox_file.waiting(state_dir / "outbox.db") == {}


async def test_what_a_killed_agent_left_half_sent_does_not_disturb_its_successor(
    tmp_path: Path, state_dir: Path
) -> None:
    settings: dict[str, Setting] = {"outbox__fresh_for": 600, "streams__once__qos": 2}
    async with (
        Mosquitto(tmp_path / "mosquitto", extra=["max_inflight_messages 20", "log_type all"]) as broker,
        Subscriber(broker.port) as subscriber,
    ):
        async with agent(state_dir, broker, **settings) as robot:
            await subscriber.wait_for(lambda got: statuses(got) == ["online"])
            broker.freeze()
            await feed(robot, range(200), "once")
            await robot.kill()
            broker.thaw()
        await subscriber.wait_for(lambda got: statuses(got) == ["online", "lost"])
        assert broker.matching(r"Received PUBLISH from rover \(d0, q2,")
        assert broker.matching("Received PUBREL") == []
        async with agent(state_dir, broker, **settings) as robot:
            # What it has of an earlier process goes to the backlog, at QoS 1; these go beside it.
            await feed(robot, range(200, 400), "once")
            await subscriber.wait_for(lambda got: set(numbers(got, "once")) == set(range(400)))
            await stopped(robot)
        assert len(broker.matching(" as rover ")) == 2
    assert outbox_file.waiting(state_dir / "outbox.db") == {}


async def test_bad_credentials_are_told_and_good_ones_are_taken(tmp_path: Path, state_dir: Path) -> None:
    passwords = tmp_path / "passwords"
    made = await asyncio.create_subprocess_exec(
        program("mosquitto_passwd", package=PACKAGE), "-b", "-c", passwords, "rover", "sesame"
    )
    assert await made.wait() == 0
    extra = ["allow_anonymous false", f"password_file {passwords}"]
    async with Mosquitto(tmp_path / "mosquitto", extra=extra) as broker:
        for password, told in (("wrong", r"return code [45], .*; next attempt in"), ("sesame", "link up")):
            (state_dir / "password").write_text(password)
            settings: dict[str, Setting] = {
                "broker__username": "rover",
                "broker__password_file": state_dir / "password",
            }
            async with agent(state_dir, broker, **settings) as robot:
                await robot.wait_for_line(told)
                await stopped(robot)


async def test_a_record_that_the_broker_finds_too_large_is_found_and_holds_up_no_other(
    tmp_path: Path, state_dir: Path
) -> None:
    async with (
        Mosquitto(tmp_path / "mosquitto", extra=["max_packet_size 2000"]) as broker,
        Subscriber(broker.port) as subscriber,
        agent(state_dir, broker, outbox__fresh_for=60, ingest__max_line="1MiB") as robot,
    ):
        await subscriber.wait_for(lambda got: statuses(got) == ["online"])
        await feed(robot, range(10))
        await feed(robot, range(1), "large", filling="x" * 300_000)
        await feed(robot, range(10, 20))
        await subscriber.wait_for(lambda got: set(numbers(got)) == set(range(20)))
        await subscriber.wait_for(lambda got: any(message.topic.endswith("/loss") for message in got))
        await stopped(robot)
    assert set(outbox_file.quarantined(state_dir / "outbox.db")) == {("large", 1, 1)}
    assert outbox_file.waiting(state_dir / "outbox.db") == {}

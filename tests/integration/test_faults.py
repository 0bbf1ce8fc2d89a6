"""What mosquitto will not do: the agent before a broker that refuses, limits, says nothing or hangs up."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent import sources
from tests.support import outbox_file
from tests.support.agent_process import AgentProcess, Setting
from tests.support.agent_socket import AgentSocket
from tests.support.packets import Publish
from tests.support.script import Received
from tests.support.scripted import Hello, Script, ScriptedBroker
from tests.support.subscriber import records

NO_MATCHING_SUBSCRIBERS, NOT_AUTHORIZED, QUOTA_EXCEEDED, PACKET_TOO_LARGE = 0x10, 0x87, 0x97, 0x95
FAST: dict[str, Setting] = {
    "device_id": "rover",
    "broker.backoff.base": 0.05,
    "broker.backoff.cap": 0.2,
    "broker.backoff.link_cap": 0.2,
    "outbox.commit_interval": 0.05,
    **{f"streams.{name}.enabled": False for name in sources.STARTED},
}


def agent(folder: Path, broker: ScriptedBroker, **settings: Setting) -> AgentProcess:
    extra = {key.replace("__", "."): value for key, value in settings.items()}
    return AgentProcess(folder, {**FAST, "broker.urls": [broker.url], **extra})


async def feed(robot: AgentProcess, count: int, stream: str = "imu", filling: str = "") -> None:
    """Have so many records accepted, numbered from 1 in the field `n`, and answered."""
    await robot.wait_for_line("is up: ")
    async with AgentSocket(robot.socket) as local:
        for number in range(1, count + 1):
            await local.put(stream, n=number, filling=filling)
        await local.answers()
        assert local.errors == []
        assert len(local.kept) == count


def arrived(publishes: list[Received]) -> Counter[int]:
    return Counter(row.payload["n"] for row in records(publishes))


def losses(broker: ScriptedBroker) -> list[dict[str, Any]]:
    return [json.loads(publish.payload) for publish in broker.accepted if publish.topic == "device/rover/loss"]


def refusing(code: int, topic: str, times: int) -> Callable[[Publish], int]:
    """Answer the first PUBLISH of this topic with the code, so many times; all others are accepted."""
    left = times

    def answer(packet: Publish) -> int:
        nonlocal left
        if packet.topic.endswith(topic) and left:
            left -= 1
            return code
        return 0

    return answer


async def test_what_was_refused_for_the_quota_comes_again_later_without_a_reconnect(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    scripted.default = Script(ack=refusing(QUOTA_EXCEEDED, "/imu", times=3))
    async with agent(state_dir, scripted) as robot:
        await feed(robot, 10)
        await scripted.wait_for(lambda: len(arrived(scripted.accepted)) == 10)
        await robot.wait_for_line("refused device/rover/telemetry/imu: .*0x97.*; again in 1 s")
    assert arrived(scripted.publishes).total() == 13
    assert len(scripted.connections) == 1
    assert scripted.violations == []


async def test_what_is_refused_for_good_goes_to_quarantine_is_told_and_holds_up_nobody(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    def answer(packet: Publish) -> int:
        return NOT_AUTHORIZED if packet.topic.endswith("/secret") else 0

    scripted.default = Script(ack=answer)
    async with agent(state_dir, scripted) as robot:
        await feed(robot, 3, stream="secret")
        await feed(robot, 5, stream="imu")
        await scripted.wait_for(lambda: len(arrived(scripted.accepted)) == 5)
        await scripted.wait_for(lambda: sum(loss["count"] for loss in losses(scripted)) == 3)
        robot.sigterm()
        assert await robot.wait() == 0
    told = losses(scripted)
    file = state_dir / "outbox.db"
    assert set(outbox_file.quarantined(file)) == {("secret", 1, seq) for seq in (1, 2, 3)}
    assert outbox_file.waiting(file) == {}
    assert len(scripted.connections) == 1
    assert scripted.violations == []
    assert (min(loss["first_seq"] for loss in told), max(loss["last_seq"] for loss in told)) == (1, 3)
    assert {(loss["stream"], loss["epoch"], loss["reason"]) for loss in told} == {("secret", 1, "rejected")}
    assert all(set(loss) == {"ts", "stream", "epoch", "first_seq", "last_seq", "count", "reason"} for loss in told)


async def test_no_matching_subscribers_is_delivered(scripted: ScriptedBroker, state_dir: Path) -> None:
    scripted.default = Script(ack=lambda _packet: NO_MATCHING_SUBSCRIBERS)
    async with agent(state_dir, scripted) as robot:
        await feed(robot, 5)
        robot.sigterm()
        assert await robot.wait() == 0
    assert outbox_file.waiting(state_dir / "outbox.db") == {}


async def test_a_broker_that_never_sends_connack_is_given_up_in_time_and_dialled_again(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    scripted.scripts.extend([Script(hello=Hello.SILENCE), Script(hello=Hello.SILENCE)])
    async with agent(state_dir, scripted, broker__hello_timeout=0.3) as robot:
        await robot.wait_for_line("sent no CONNACK for 0.3 s; next attempt in")
        await feed(robot, 5)
        await scripted.wait_for(lambda: len(arrived(scripted.accepted)) == 5)
    assert len(scripted.connections) == 3
    assert scripted.violations == []


async def test_a_broker_that_closes_before_connack_is_dialled_again(scripted: ScriptedBroker, state_dir: Path) -> None:
    scripted.scripts.extend([Script(hello=Hello.CLOSE), Script(hello=Hello.CLOSE)])
    async with agent(state_dir, scripted) as robot:
        await robot.wait_for_line("closed the connection; next attempt in")
        await feed(robot, 5)
        await scripted.wait_for(lambda: len(arrived(scripted.accepted)) == 5)
    assert len(scripted.connections) == 3


@pytest.mark.parametrize("code", [0x86, 0x87, 0x97, 0x9F])
async def test_a_refused_connect_is_told_with_its_reason_and_tried_again(
    scripted: ScriptedBroker, state_dir: Path, code: int
) -> None:
    scripted.scripts.append(Script(reason=code))
    async with agent(state_dir, scripted) as robot:
        await robot.wait_for_line(f"refused the connection: .*0x{code:02X} .*; next attempt in")
        await scripted.wait_for(lambda: scripted.connected)
    assert len(scripted.connections) == 2


async def test_rubbish_instead_of_connack_ends_the_attempt_not_the_agent(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    junk = (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x20\x7f\xff\xff\xff", b"\x00" * 64, b"\x20\x02\x00", b"\xff" * 64)
    scripted.scripts.extend(Script(hello=Hello.SILENCE, raw=raw) for raw in junk)
    async with agent(state_dir, scripted, broker__hello_timeout=0.3) as robot:
        await feed(robot, 5)
        await scripted.wait_for(lambda: len(arrived(scripted.accepted)) == 5)
        assert "Traceback" not in "\n".join(robot.lines)
    assert len(scripted.connections) == len(junk) + 1


@pytest.mark.parametrize("limit", [1, 2, 7])
async def test_receive_maximum_is_obeyed_and_everything_arrives_in_order(
    scripted: ScriptedBroker, state_dir: Path, limit: int
) -> None:
    scripted.default = Script(properties={"receive_maximum": limit})
    async with agent(state_dir, scripted) as robot:
        await feed(robot, 200)
        await scripted.wait_for(lambda: len(arrived(scripted.accepted)) == 200)
    assert [row.payload["n"] for row in records(scripted.publishes)] == list(range(1, 201))
    assert scripted.violations == []


async def test_a_record_above_maximum_packet_size_goes_to_quarantine_unsent(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    scripted.default = Script(properties={"maximum_packet_size": 512})
    async with agent(state_dir, scripted) as robot:
        await feed(robot, 1, stream="large", filling="x" * 1000)
        await feed(robot, 3)
        await scripted.wait_for(lambda: len(arrived(scripted.accepted)) == 3)
        await robot.wait_for_line("Maximum Packet Size of 512")
        robot.sigterm()
        assert await robot.wait() == 0
    assert set(outbox_file.quarantined(state_dir / "outbox.db")) == {("large", 1, 1)}
    assert scripted.violations == []
    assert len(scripted.connections) == 1


async def test_maximum_qos_0_and_no_retain_are_obeyed(scripted: ScriptedBroker, state_dir: Path) -> None:
    scripted.default = Script(properties={"maximum_qos": 0, "retain_available": 0})
    async with agent(state_dir, scripted, streams__pose__delivery="live", health__interval=0.1) as robot:
        await feed(robot, 1, stream="pose")
        await feed(robot, 3)
        await scripted.wait_for(lambda: len(scripted.publishes) >= 5)
        robot.sigterm()
        assert await robot.wait() == 0
    assert scripted.violations == []
    assert {publish.packet.qos for publish in scripted.publishes} == {0}
    # What asks for an acknowledgement waits for a broker that can give one.
    assert set(outbox_file.waiting(state_dir / "outbox.db")) == {("imu", 1, seq) for seq in (1, 2, 3)}


async def test_packets_lost_with_a_connection_are_sent_again_with_dup_and_their_identifiers(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    async with agent(state_dir, scripted) as robot:
        await scripted.wait_for(lambda: scripted.publishes)
        async with scripted.dropping_acks():
            await feed(robot, 20)
            await scripted.wait_for(lambda: len(arrived(scripted.publishes)) == 20)
            scripted.connection.abort()
            await scripted.wait_for(lambda: scripted.connected)
        await scripted.wait_for(lambda: arrived(scripted.publishes).total() >= 40)
        robot.sigterm()
        assert await robot.wait() == 0
    again = [publish for publish in scripted.publishes if publish.packet.dup]
    assert len(again) == 20
    assert scripted.violations == []
    assert outbox_file.waiting(state_dir / "outbox.db") == {}


async def test_after_a_lost_session_records_are_sent_anew_without_dup(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    async with agent(state_dir, scripted) as robot:
        await scripted.wait_for(lambda: scripted.publishes)
        async with scripted.dropping_acks():
            await feed(robot, 20)
            await scripted.wait_for(lambda: len(arrived(scripted.publishes)) == 20)
            scripted.lose_sessions()
            scripted.connection.abort()
            await scripted.wait_for(lambda: scripted.connected)
        await scripted.wait_for(lambda: arrived(scripted.publishes).total() >= 40)
    assert [publish for publish in scripted.publishes if publish.packet.dup] == []
    assert scripted.violations == []


async def test_a_connection_without_progress_is_given_up_and_nothing_is_lost(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    async with agent(state_dir, scripted, broker__dead_after=1) as robot:
        await scripted.wait_for(lambda: scripted.publishes)
        async with scripted.stalling():
            await feed(robot, 500)
            await robot.wait_for_line("link down: no answer for .* s; next attempt in")
        await scripted.wait_for(lambda: len(arrived(scripted.accepted)) == 500)


async def test_a_stop_that_could_not_say_goodbye_asks_the_broker_for_the_will(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    async with agent(state_dir, scripted) as robot:
        await scripted.wait_for(lambda: scripted.publishes)
        async with scripted.dropping_acks():
            await feed(robot, 5)
            robot.sigterm()
            assert await robot.wait() == 0
    [disconnect] = scripted.disconnects
    assert disconnect.reason == 0x04
    assert len(scripted.wills) == len(scripted.connections)
    assert len(outbox_file.waiting(state_dir / "outbox.db")) == 5


async def test_only_the_newest_of_a_live_stream_is_sent_after_an_outage_and_the_others_are_counted(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    async with agent(state_dir, scripted, streams__pose__delivery="live", outbox__fresh_for=60) as robot:
        await scripted.wait_for(lambda: scripted.connected)
        async with scripted.unreachable():
            await robot.wait_for_line("link down")
            await feed(robot, 10, stream="pose")
            async with AgentSocket(robot.socket) as local:
                assert (await local.status())["streams"]["pose"]["dropped"] == 9
        await scripted.wait_for(lambda: arrived(scripted.publishes))
    [row] = records(scripted.publishes)
    assert (row.stream, row.seq, row.payload["n"]) == ("pose", 10, 10)
    assert [publish.packet.qos for publish in scripted.publishes if "/telemetry/" in publish.topic] == [0]

"""Commands: never twice, never too late, whatever happens to packets and processes (contract, section 5)."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent import sources
from tests.support.agent_process import AgentProcess, Setting
from tests.support.packets import Publish
from tests.support.script import Script
from tests.support.scripted import ScriptedBroker
from tests.support.wire import Properties

PREFIX = "device/rover"
SETTINGS: dict[str, Setting] = {
    "device_id": "rover",
    "broker.backoff.base": 0.05,
    "broker.backoff.cap": 0.2,
    "broker.backoff.link_cap": 0.2,
    "resync.timeout": 0.3,
    **{f"streams.{name}.enabled": False for name in sources.STARTED},
}


def agent(folder: Path, broker: ScriptedBroker, **settings: Setting) -> AgentProcess:
    extra = {key.replace("__", "."): value for key, value in settings.items()}
    return AgentProcess(folder, {**SETTINGS, "broker.urls": [broker.url], **extra})


async def subscribed(broker: ScriptedBroker) -> None:
    await broker.wait_for(lambda: broker.connected and f"{PREFIX}/cmd/+" in broker.connection.session.subscriptions)


async def stopped(robot: AgentProcess) -> None:
    robot.sigterm()
    assert await robot.wait() == 0


def send(broker: ScriptedBroker, name: str, body: object = None, **more: Any) -> int:  # noqa: ANN401  as deliver() takes it
    payload = body if isinstance(body, bytes) else json.dumps(body if body is not None else {}).encode()
    packet_id = broker.deliver(f"{PREFIX}/cmd/{name}", payload, **more)
    assert packet_id is not None
    return packet_id


def answers(broker: ScriptedBroker, topic: str = f"{PREFIX}/result/") -> list[dict[str, Any]]:
    return [json.loads(one.payload) for one in broker.accepted if one.topic.startswith(topic)]


async def answer(broker: ScriptedBroker, count: int = 1, topic: str = f"{PREFIX}/result/") -> list[dict[str, Any]]:
    await broker.wait_for(lambda: len(answers(broker, topic)) >= count)
    return answers(broker, topic)


def acknowledged(broker: ScriptedBroker, packet_id: int) -> bool:
    """Whether the last packet of the exchange came."""
    return packet_id not in broker.connection.session.outgoing


def reply_to(topic: str, correlation_data: bytes = b"") -> Properties:
    return {"response_topic": topic, **({"correlation_data": correlation_data} if correlation_data else {})}


async def test_a_command_is_answered_where_it_says_with_its_correlation_data(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    async with agent(state_dir, scripted) as robot:
        await subscribed(scripted)
        send(scripted, "ping", {"id": "a"}, properties=reply_to("back/1", b"\x00\xff"))
        await answer(scripted, topic="back/1")
        await stopped(robot)
    [reply] = [one for one in scripted.accepted if one.topic == "back/1"]
    assert reply.packet.properties["correlation_data"] == b"\x00\xff"
    assert reply.packet.qos == 1
    assert not reply.packet.retain
    body = json.loads(reply.payload)
    assert (body["id"], body["name"], body["status"], body["epoch"]) == ("a", "ping", "succeeded", 1)
    assert isinstance(body["ts"], int)
    assert scripted.violations == []


async def test_without_a_response_topic_the_result_goes_to_the_topic_result(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    async with agent(state_dir, scripted) as robot:
        await subscribed(scripted)
        send(scripted, "ping", {})
        send(scripted, "ping", b"", properties={"correlation_data": b"c-7"})
        first, second = await answer(scripted, 2)
        await stopped(robot)
    assert first["id"].startswith("ping-")
    assert second["id"] == "c-7"


async def test_the_same_id_again_is_answered_with_the_first_result_to_whoever_asks_now(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    async with agent(state_dir, scripted) as robot:
        await subscribed(scripted)
        send(scripted, "ping", {"id": "a"}, properties=reply_to("back/1", b"1"))
        [first] = await answer(scripted, topic="back/1")
        send(scripted, "ping", {"id": "a"}, properties=reply_to("back/2", b"2"))
        [second] = await answer(scripted, topic="back/2")
        await stopped(robot)
        assert first == second
        async with robot:  # also for the next process
            scripted.expect_client_memory_lost()
            await subscribed(scripted)
            send(scripted, "ping", {"id": "a"}, properties=reply_to("back/3"))
            assert await answer(scripted, topic="back/3") == [first]
            await stopped(robot)


async def test_two_equal_commands_without_an_identity_are_two_but_a_duplicate_of_the_packet_is_not(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    async with agent(state_dir, scripted) as robot:
        await subscribed(scripted)
        send(scripted, "ping", {})
        send(scripted, "ping", {})
        one, other = await answer(scripted, 2)
        assert one["id"] != other["id"]
        # The PUBACK of the next one is lost with its connection, so that the broker sends it again with DUP.
        packet_id = send(scripted, "ping", {})
        await scripted.wait_for(lambda: acknowledged(scripted, packet_id))
        scripted.connection.session.outgoing[packet_id] = Publish(
            topic=f"{PREFIX}/cmd/ping", payload=b"{}", qos=1, packet_id=packet_id
        )
        await answer(scripted, 3)
        scripted.connection.abort()
        await scripted.wait_for(lambda: scripted.connected and acknowledged(scripted, packet_id))
        await robot.wait_for_line("came again: it is not run again")
        results = await answer(scripted, 4)
        await stopped(robot)
    assert results[2] == results[3]
    assert scripted.violations == []


async def test_a_command_is_durable_before_its_puback_and_is_not_run_twice_though_the_process_is_killed(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    async with agent(state_dir, scripted, resync__timeout=60) as robot:
        await subscribed(scripted)
        packet_id = send(scripted, "flush", {"id": "f"})  # it waits for the resynchronisation
        await scripted.wait_for(lambda: acknowledged(scripted, packet_id))
        await robot.kill()
        scripted.expect_client_memory_lost()
        robot.settings["resync.timeout"] = 0.3
        await robot.start()
        [result] = await answer(scripted)
        await stopped(robot)
    assert (result["id"], result["status"], result["epoch"]) == ("f", "succeeded", 2)


@pytest.mark.parametrize(
    ("body", "more", "status", "reason"),
    [
        (b"{", {}, "rejected", "not JSON"),
        (b"[]", {}, "rejected", "not a JSON object"),
        ({"id": "a", "arg": {}}, {}, "rejected", "unknown keys: arg"),
        ({"id": 7}, {}, "rejected", "id must be"),
        ({"id": "a", "args": {"x": 1}}, {}, "rejected", "unknown argument 'x'; there are none"),
        ({"id": "a"}, {"retain": True}, "rejected", "it was retained"),
    ],
)
async def test_what_cannot_be_done_is_rejected_with_the_reason(
    scripted: ScriptedBroker, state_dir: Path, body: object, more: dict[str, Any], status: str, reason: str
) -> None:
    async with agent(state_dir, scripted) as robot:
        await subscribed(scripted)
        packet_id = send(scripted, "ping", body, **more)
        [result] = await answer(scripted)
        assert result["status"] == status
        assert reason in result["reason"]
        await scripted.wait_for(lambda: acknowledged(scripted, packet_id))
        await stopped(robot)


async def test_an_unknown_command_is_rejected(scripted: ScriptedBroker, state_dir: Path) -> None:
    async with agent(state_dir, scripted) as robot:
        await subscribed(scripted)
        send(scripted, "self-destruct", {"id": "x"})
        [result] = await answer(scripted)
        await stopped(robot)
    assert (result["status"], result["reason"]) == ("rejected", "there is no command self-destruct")


async def test_a_command_that_expires_while_it_waits_is_not_run(scripted: ScriptedBroker, state_dir: Path) -> None:
    async with agent(state_dir, scripted, resync__timeout=2.5) as robot:
        await subscribed(scripted)
        send(scripted, "flush", {"id": "late"}, properties={"message_expiry_interval": 1})
        send(scripted, "flush", {"id": "in time"}, properties={"message_expiry_interval": 60})
        results = {one["id"]: one for one in await answer(scripted, 2)}
        await stopped(robot)
    assert results["late"]["status"] == "expired"
    assert results["in time"]["status"] == "succeeded"


async def test_a_sequence_number_of_a_sender_counts_once_also_after_a_restart(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    async with agent(state_dir, scripted) as robot:
        await subscribed(scripted)
        for name, sender, seq in (("a", "ops", 5), ("b", "ops", 5), ("c", "ops", 4), ("d", "dev", 1), ("e", "ops", 6)):
            send(scripted, "ping", {"id": name, "from": sender, "seq": seq})
        results = {one["id"]: one for one in await answer(scripted, 5)}
        assert [results[name]["status"] for name in "abcde"] == [
            "succeeded", "rejected", "rejected", "succeeded", "succeeded",
        ]  # fmt: skip
        assert results["b"]["reason"] == "stale sequence"
        await stopped(robot)
        async with robot:
            scripted.expect_client_memory_lost()
            await subscribed(scripted)
            send(scripted, "ping", {"id": "f", "from": "ops", "seq": 6})
            assert (await answer(scripted, 6))[5]["reason"] == "stale sequence"
            await stopped(robot)


async def test_subscriptions_that_were_lost_with_the_session_are_made_again_without_a_restart(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    async with agent(state_dir, scripted) as robot:
        await subscribed(scripted)
        for count in (1, 2):
            scripted.lose_sessions()
            scripted.connection.abort()
            await scripted.wait_for(lambda: len(scripted.connections) > count)  # noqa: B023  used at once
            await subscribed(scripted)
            send(scripted, "ping", {"id": f"ping {count}"})
            await answer(scripted, count)
        await stopped(robot)
    assert scripted.violations == []


async def test_a_refused_subscription_is_told_loudly(scripted: ScriptedBroker, state_dir: Path) -> None:
    scripted.default = Script(grant=lambda item: 0x87 if item.topic.endswith("cmd/+") else item.qos)
    async with agent(state_dir, scripted) as robot:
        told = await robot.wait_for_line("refuses the subscription to device/rover/cmd/")
        assert "ERROR" in told.string
        assert "0x87 not authorized" in told.string
        await stopped(robot)


async def test_qos_2_commands_are_taken_once_though_pubrec_and_pubcomp_are_lost(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    async with agent(state_dir, scripted, commands__qos=2) as robot:
        await subscribed(scripted)
        packet_id = send(scripted, "ping", {}, qos=2)
        await scripted.wait_for(lambda: acknowledged(scripted, packet_id))
        await answer(scripted)
        # PUBREC was lost: the message comes again with DUP, and before it was released it is the same one.
        session = scripted.connection.session
        again = Publish(topic=f"{PREFIX}/cmd/ping", payload=b"{}", qos=2, packet_id=9)
        session.outgoing[9] = again
        scripted.connection.send(again)
        scripted.connection.send(replace(again, dup=True))
        await answer(scripted, 2)
        await scripted.wait_for(lambda: acknowledged(scripted, 9))
        await stopped(robot)
    assert len(answers(scripted)) == 2
    # That it was released twice, and answered twice, is this script's own doing.
    assert {one.statement for one in scripted.violations} <= {"MQTT-2.2.1-5"}


async def test_a_storm_of_commands_is_taken_in_order_and_each_is_answered_once(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    async with agent(state_dir, scripted) as robot:
        await subscribed(scripted)
        for number in range(90):
            send(scripted, "ping", {"id": str(number)})
        results = await answer(scripted, 90)
        await stopped(robot)
    assert sorted(int(one["id"]) for one in results) == list(range(90))
    assert scripted.violations == []


# Commands that programs perform.


def program(folder: Path, text: str) -> str:
    file = folder / "program"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return str(file)


async def test_a_program_of_the_settings_is_run_with_checked_arguments(
    scripted: ScriptedBroker, state_dir: Path, tmp_path: Path
) -> None:
    settings: dict[str, Setting] = {
        "commands__dock": {
            "argv": [program(tmp_path, 'echo "{\\"bay\\":$1,\\"by\\":\\"$ROAMD_COMMAND_ID\\"}"'), "{bay}"],
            "args": {"bay": {"type": "integer", "minimum": 1, "maximum": 4, "required": True}},
        }
    }
    async with agent(state_dir, scripted, **settings) as robot:
        await subscribed(scripted)
        send(scripted, "dock", {"id": "a", "args": {"bay": 3}})
        send(scripted, "dock", {"id": "b", "args": {"bay": 9}})
        results = {one["id"]: one for one in await answer(scripted, 2)}
        await stopped(robot)
    assert (results["a"]["status"], results["a"]["result"]) == ("succeeded", {"bay": 3, "by": "a"})
    assert (results["b"]["status"], results["b"]["reason"]) == ("rejected", "bay = 9 is above the maximum, 4")


@pytest.mark.parametrize(("idempotent", "status"), [(False, "interrupted"), (True, "succeeded")])
async def test_what_was_running_when_the_agent_was_killed_is_run_again_only_if_that_does_no_harm(
    scripted: ScriptedBroker,
    state_dir: Path,
    tmp_path: Path,
    idempotent: bool,  # noqa: FBT001
    status: str,
) -> None:
    runs = tmp_path / "runs"
    text = f"echo run >> {runs}; [ $(wc -l < {runs}) -gt 1 ] || exec sleep 60"
    settings: dict[str, Setting] = {
        "commands__dock": {"argv": [program(tmp_path, text)], "idempotent": idempotent, "timeout": 60}
    }
    async with agent(state_dir, scripted, **settings) as robot:
        await subscribed(scripted)
        send(scripted, "dock", {"id": "a"})
        [accepted] = await answer(scripted)  # after a second
        assert accepted["status"] == "accepted"
        await robot.kill()
        scripted.expect_client_memory_lost()
        await robot.start()
        await scripted.wait_for(lambda: answers(scripted)[-1]["status"] != "accepted")
        assert answers(scripted)[-1]["status"] == status
        await stopped(robot)
    assert len(runs.read_text().splitlines()) == 1 + idempotent


async def test_no_more_programs_run_at_once_than_the_settings_allow_and_a_ping_waits_for_none(
    scripted: ScriptedBroker, state_dir: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    settings: dict[str, Setting] = {
        "commands__max_running": 2,
        "commands__dock": {"argv": [program(tmp_path, f"cat {gate}; echo $$ >> {tmp_path}/pids")], "timeout": 60},
    }
    async with agent(state_dir, scripted, **settings) as robot:
        await subscribed(scripted)
        for number in range(4):
            send(scripted, "dock", {"id": str(number)})
        await answer(scripted, 2)  # two are accepted
        send(scripted, "ping", {"id": "p"})
        results = await answer(scripted, 3)
        assert [(one["id"], one["status"]) for one in results] == [
            ("0", "accepted"), ("1", "accepted"), ("p", "succeeded"),
        ]  # fmt: skip
        await stopped(robot)


async def test_a_result_that_was_not_acknowledged_is_told_by_the_next_process(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    async with agent(state_dir, scripted) as robot:
        await subscribed(scripted)
        async with scripted.dropping_acks():
            send(scripted, "ping", {"id": "a"})
            [first] = await answer(scripted)
            await robot.kill()
        scripted.expect_client_memory_lost()
        await robot.start()
        first, second = await answer(scripted, 2)
        assert first == second
        await stopped(robot)


async def test_with_clean_start_everything_is_subscribed_again_at_each_connect(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    async with agent(state_dir, scripted, broker__clean_start=True) as robot:
        for count in (1, 2):
            await subscribed(scripted)
            send(scripted, "ping", {"id": str(count)})
            await answer(scripted, count)
            assert scripted.connection.connack is not None
            assert not scripted.connection.connack.session_present
            connections = len(scripted.connections)
            scripted.connection.abort()
            await scripted.wait_for(lambda: len(scripted.connections) > connections)  # noqa: B023  used at once
        await stopped(robot)
    assert scripted.violations == []


@pytest.mark.parametrize("topic", ["back/#", "back/+/1"])
@pytest.mark.parametrize("place", ["property", "body"])
async def test_a_response_topic_on_which_nothing_can_be_published_does_not_close_the_connection(
    scripted: ScriptedBroker, state_dir: Path, topic: str, place: str
) -> None:
    async with agent(state_dir, scripted) as robot:
        await subscribed(scripted)
        if place == "property":
            send(scripted, "ping", {"id": "a"}, properties=reply_to(topic, b"1"))
        else:
            send(scripted, "ping", {"id": "a", "response_topic": topic})
        [result] = await answer(scripted)
        await stopped(robot)
    assert (result["id"], result["status"]) == ("a", "succeeded")
    assert scripted.violations == []


async def test_a_packet_without_an_identity_is_known_to_the_next_process_too_for_as_long_as_its_session_lasts(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    async with agent(state_dir, scripted) as robot:
        await subscribed(scripted)
        packet_id = send(scripted, "ping", {})
        [first] = await answer(scripted)
        await scripted.wait_for(lambda: acknowledged(scripted, packet_id))
        # The PUBACK was lost with the connection and with the process: it comes again, with DUP.
        scripted.connection.session.outgoing[packet_id] = Publish(
            topic=f"{PREFIX}/cmd/ping", payload=b"{}", qos=1, packet_id=packet_id
        )
        await robot.kill()
        scripted.expect_client_memory_lost()
        await robot.start()
        await robot.wait_for_line("came again: it is not run again")
        assert (await answer(scripted, 2))[-1] == first
        await stopped(robot)

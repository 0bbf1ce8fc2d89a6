"""More than one broker: fail-over, the way back, and brokers that refer to another one."""

import asyncio
from pathlib import Path

import pytest

from tests.integration.test_hard_brokers import QUICK, feed, numbers, stopped
from tests.support import outbox_file
from tests.support.agent_process import AgentProcess, Setting
from tests.support.agent_socket import AgentSocket
from tests.support.script import Script
from tests.support.scripted import ScriptedBroker


def agent(folder: Path, *brokers: ScriptedBroker, **settings: Setting) -> AgentProcess:
    extra = {key.replace("__", "."): value for key, value in settings.items()}
    return AgentProcess(folder, {**QUICK, "broker.urls": [broker.url for broker in brokers], **extra})


@pytest.mark.parametrize("qos", [1, 2])
async def test_while_the_preferred_broker_is_away_the_other_one_gets_everything_and_then_it_again(
    state_dir: Path, qos: int
) -> None:
    async with ScriptedBroker() as first, ScriptedBroker() as second:
        async with agent(
            state_dir, first, second, broker__return_after=0.2, outbox__fresh_for=60, streams__imu__qos=qos
        ) as robot:
            await first.wait_for(lambda: first.connected)
            await feed(robot, range(5))
            async with first.dropping_acks():
                await feed(robot, range(5, 15))
                await first.wait_for(lambda: set(numbers(first.publishes)) >= set(range(15)))
                async with first.unreachable():
                    # What the first one did not acknowledge goes to the second one, as new.
                    await second.wait_for(lambda: set(numbers(second.publishes)) >= set(range(5, 15)))
                    assert not any(one.packet.dup for one in second.publishes)
                    await feed(robot, range(15, 20))
                    await second.wait_for(lambda: 19 in numbers(second.accepted))
            await first.wait_for(lambda: first.connected)
            await second.wait_for(lambda: second.disconnects)
            # The first one still has the session of before; what is sent now is not taken for a part of it.
            await feed(robot, range(20, 25))
            await first.wait_for(lambda: 24 in numbers(first.accepted))
            async with AgentSocket(robot.socket) as local:
                link = (await local.status())["link"]
            await stopped(robot)
        assert link["server"] == f"127.0.0.1:{first.port}"
        assert link["downs"]["return to the preferred broker"] == 1
        assert second.wills == []
        assert [one.reason for one in second.disconnects] == [0]
        assert set(numbers(first.accepted)) | set(numbers(second.accepted)) == set(range(25))
        assert first.violations == second.violations == []
        assert outbox_file.waiting(state_dir / "outbox.db") == {}


async def test_a_robot_that_starts_while_the_preferred_broker_is_away_takes_the_next_one(state_dir: Path) -> None:
    async with (
        ScriptedBroker() as first,
        ScriptedBroker() as second,
        first.unreachable(),
        agent(state_dir, first, second, broker__return_after=0) as robot,
    ):
        await second.wait_for(lambda: second.connected)
        await robot.wait_for_line(f"link up, connection 2 to 127.0.0.1:{second.port}")
        await stopped(robot)


@pytest.mark.parametrize("code", [0x9C, 0x9D])
async def test_a_broker_that_refers_to_another_one_is_obeyed_where_the_settings_allow_it(
    state_dir: Path, code: int
) -> None:
    async with ScriptedBroker() as first, ScriptedBroker() as other:
        to = {"server_reference": f"evil.invalid 127.0.0.1:{other.port}"}
        first.default = Script(reason=code, properties=to)
        async with agent(state_dir, first) as robot:
            await other.wait_for(lambda: other.connected)
            await feed(robot, range(3))
            await other.wait_for(lambda: set(numbers(other.accepted)) == set(range(3)))
            await stopped(robot)
        assert len(first.connections) == 1


async def test_a_broker_that_refers_to_a_strange_host_is_not_obeyed(state_dir: Path) -> None:
    async with ScriptedBroker() as first, ScriptedBroker(host="127.0.0.2") as other:
        first.default = Script(reason=0x9C, properties={"server_reference": f"127.0.0.2:{other.port}"})
        async with agent(state_dir, first) as robot:
            await first.wait_for(lambda: len(first.connections) >= 3)
            await stopped(robot)
        assert other.connections == []
        async with agent(state_dir, first, broker__referrals=["127.0.0.2"]) as robot:
            await other.wait_for(lambda: other.connected)
            await stopped(robot)


async def test_two_brokers_that_refer_to_each_other_do_not_send_it_round_in_circles(state_dir: Path) -> None:
    async with ScriptedBroker() as first, ScriptedBroker() as other:
        first.default = Script(reason=0x9C, properties={"server_reference": f"127.0.0.1:{other.port}"})
        other.default = Script(reason=0x9C, properties={"server_reference": f"127.0.0.1:{first.port}"})
        waits: dict[str, Setting] = {"broker__backoff__base": 30, "broker__backoff__cap": 30}
        async with agent(state_dir, first, broker__backoff__strategy="fixed", **waits) as robot:
            await robot.wait_for_line("next attempt in 30.0 s")
            await stopped(robot)
        assert len(first.connections) + len(other.connections) == 4


async def test_a_session_that_another_client_took_over_is_told_loudly_and_not_taken_back_soon(state_dir: Path) -> None:
    async with ScriptedBroker() as broker, agent(state_dir, broker) as robot:
        await broker.wait_for(lambda: broker.connected)
        broker.connection.end(0x8E)
        told = await robot.wait_for_line(r"ERROR .*another client has the same client identifier.*attempt in (\d+)")
        assert int(told[1]) >= 30
        async with asyncio.timeout(30):
            await stopped(robot)

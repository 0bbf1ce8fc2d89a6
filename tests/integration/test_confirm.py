"""The controller's word: with `outbox.confirm = "controller"` a PUBACK does not end a record (contract, section 6)."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.integration.test_commands import agent, stopped, subscribed
from tests.integration.test_resync import asked, correlations, reply
from tests.support import outbox_file
from tests.support.agent_process import AgentProcess, Setting
from tests.support.agent_socket import AgentSocket
from tests.support.scripted import ScriptedBroker
from tests.support.subscriber import records

CONTROLLER: dict[str, Setting] = {
    "outbox__confirm": "controller",
    "outbox__commit_interval": 0.1,
    "outbox__fresh_for": 0.5,
    "resync__every": 1,
    "resync__timeout": 5,
}


async def feed(robot: AgentProcess, numbers: range, stream: str = "imu") -> None:
    await robot.wait_for_line("is up: ")
    async with AgentSocket(robot.socket) as local:
        for number in numbers:
            await local.put(stream, n=number)
        await local.answers()


async def figures(robot: AgentProcess, enough: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    async with AgentSocket(robot.socket) as local, asyncio.timeout(30):
        while not enough(told := (await local.status())["streams"]["imu"]):  # noqa: ASYNC110  figures
            await asyncio.sleep(0.05)
    return told


def sequences(broker: ScriptedBroker, stream: str = "imu") -> list[int]:
    return [row.seq for row in records(broker.accepted) if row.stream == stream]


def ends(told: dict[str, Any]) -> int:
    return int(told["delivered"] + told["waiting"] + told["unconfirmed"] + told["quarantined"])


async def next_request(broker: ScriptedBroker) -> dict[str, Any]:
    """Wait for a request that is not the last one sent again."""
    before = set(correlations(broker))
    await broker.wait_for(lambda: set(correlations(broker)) - before)
    return asked(broker)[-1]


async def up(broker: ScriptedBroker) -> None:
    """Wait for the first request, and answer it."""
    await subscribed(broker)
    await broker.wait_for(lambda: asked(broker))
    reply(broker, {}, correlations(broker)[-1])


async def test_what_the_controller_lacks_is_sent_again_and_what_it_has_is_ended(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    async with agent(state_dir, scripted, **CONTROLLER) as robot:
        await up(scripted)
        await feed(robot, range(1000))
        await scripted.wait_for(lambda: len(sequences(scripted)) == 1000)
        kept = await figures(robot, lambda told: told["unconfirmed"] == 1000)
        assert (kept["delivered"], kept["waiting"], ends(kept)) == (0, 0, 1000)
        # The broker has lost 301 to 400, and the last two.
        request = await next_request(scripted)
        assert request["sent"]["imu"] == [1, 1000]
        reply(scripted, {"received": {"imu": [[1, 1, 300], [1, 401, 998]]}}, correlations(scripted)[-1])
        again = [*range(301, 401), 999, 1000]
        await scripted.wait_for(lambda: len(sequences(scripted)) >= 1000 + len(again))
        assert sequences(scripted)[1000:] == again
        told = await figures(robot, lambda told: told["delivered"] == 898)
        assert ends(told) == 1000
        await next_request(scripted)
        reply(scripted, {"received": {"imu": [[1, 1, 1000]]}}, correlations(scripted)[-1])
        told = await figures(robot, lambda told: told["delivered"] == 1000)
        assert (told["waiting"], told["unconfirmed"]) == (0, 0)
        await stopped(robot)
    assert scripted.violations == []
    with outbox_file.opened(state_dir / "outbox.db") as database:
        assert database.execute("SELECT count(*) FROM outbox").fetchone() == (0,)


async def test_unconfirmed_records_outlive_the_process_and_are_not_sent_before_the_controller_was_asked(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    async with agent(state_dir, scripted, **CONTROLLER) as robot:
        await up(scripted)
        await feed(robot, range(50))
        await figures(robot, lambda told: told["unconfirmed"] == 50)
        await robot.kill()
        scripted.expect_client_memory_lost()
        await robot.start()
        request = await next_request(scripted)
        assert request["epoch"] == 2
        assert len(sequences(scripted)) == 50
        reply(scripted, {"received": {"imu": [[1, 1, 20]], "nobody": [[1, 1, 2]]}}, correlations(scripted)[-1])
        await scripted.wait_for(lambda: sequences(scripted)[50:] == list(range(21, 51)))
        told = await figures(robot, lambda told: told["unconfirmed"] == 30)
        assert ends(told) == 50
        await stopped(robot)


async def test_a_reply_that_does_not_speak_of_a_stream_changes_nothing_of_it(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    async with agent(state_dir, scripted, **CONTROLLER) as robot:
        await up(scripted)
        await feed(robot, range(10))
        await figures(robot, lambda told: told["unconfirmed"] == 10)
        for body in ({}, {"received": {}}, {"received": {"other": []}}):
            await next_request(scripted)
            reply(scripted, body, correlations(scripted)[-1])
        await next_request(scripted)
        assert len(sequences(scripted)) == 10
        reply(scripted, {"received": {"imu": []}}, correlations(scripted)[-1])
        await scripted.wait_for(lambda: len(sequences(scripted)) == 20)
        await stopped(robot)


async def test_back_to_the_brokers_word_nothing_is_kept_for_ever(scripted: ScriptedBroker, state_dir: Path) -> None:
    async with agent(state_dir, scripted, **CONTROLLER) as robot:
        await up(scripted)
        await feed(robot, range(10))
        await figures(robot, lambda told: told["unconfirmed"] == 10)
        await stopped(robot)
    async with agent(state_dir, scripted) as robot:
        scripted.expect_client_memory_lost()
        await robot.wait_for_line("is up: ")
        told = await figures(robot, lambda told: told["unconfirmed"] == 0)
        assert told["delivered"] == 10
        await robot.wait_for_line("link up")
        await stopped(robot)
    assert outbox_file.waiting(state_dir / "outbox.db") == {}
    assert len(sequences(scripted)) == 10


async def test_events_are_kept_as_well_and_results_are_not(scripted: ScriptedBroker, state_dir: Path) -> None:
    async with agent(state_dir, scripted, **CONTROLLER) as robot:
        await up(scripted)
        async with AgentSocket(robot.socket) as local:
            await local.put("event/door")
            await local.answers()
        await figures_of(robot, "event/door", unconfirmed=1)
        await next_request(scripted)
        reply(scripted, {"received": {"event/door": []}}, correlations(scripted)[-1])
        await scripted.wait_for(
            lambda: len([one for one in scripted.accepted if one.topic.endswith("event/door")]) == 2
        )
        await stopped(robot)


async def figures_of(robot: AgentProcess, stream: str, **expected: int) -> None:
    async with AgentSocket(robot.socket) as local, asyncio.timeout(30):
        while not expected.items() <= (await local.status())["streams"][stream].items():  # noqa: ASYNC110  figures
            await asyncio.sleep(0.05)

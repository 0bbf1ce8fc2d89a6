"""Commands that local programs perform over the socket (contract, section 8)."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_commands import agent, answer, send, stopped, subscribed
from tests.support.agent_process import AgentProcess
from tests.support.scripted import ScriptedBroker


class Program:
    """A local program."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    def say(self, **line: object) -> None:
        self.writer.write(json.dumps(line).encode() + b"\n")

    async def hear(self) -> dict[str, Any]:
        async with asyncio.timeout(30):
            return json.loads(await self._reader.readline())  # type: ignore[no-any-return]


@asynccontextmanager
async def program(robot: AgentProcess, *commands: str) -> AsyncIterator[Program]:
    await robot.wait_for_line("is up: ")
    reader, writer = await asyncio.open_unix_connection(robot.socket)
    one = Program(reader, writer)
    try:
        if commands:
            one.say(commands=commands, ref=1)
            assert await one.hear() == {"ref": 1, "ok": True}
        yield one
    finally:
        writer.close()
        await writer.wait_closed()


async def test_a_program_is_given_the_command_and_its_word_is_the_result(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    async with agent(state_dir, scripted) as robot, program(robot, "dock", "undock") as dock:
        await subscribed(scripted)
        send(scripted, "dock", {"id": "d-1", "args": {"bay": 3}})
        assert await dock.hear() == {"command": "dock", "id": "d-1", "args": {"bay": 3}}
        dock.say(result_of="d-1", status="succeeded", result={"took": 1.5}, ref=2)
        assert await dock.hear() == {"ref": 2, "ok": True}
        [result] = await answer(scripted)
        assert (result["id"], result["status"], result["result"]) == ("d-1", "succeeded", {"took": 1.5})
        send(scripted, "undock", {"id": "u-1"})
        assert (await dock.hear())["command"] == "undock"
        dock.say(result_of="u-1", status="failed", reason="stuck")
        assert (await answer(scripted, 2))[1]["reason"] == "stuck"
        await stopped(robot)


async def test_a_command_that_takes_longer_is_told_as_accepted_first(scripted: ScriptedBroker, state_dir: Path) -> None:
    async with agent(state_dir, scripted) as robot, program(robot, "dock") as dock:
        await subscribed(scripted)
        send(scripted, "dock", {"id": "d-1"})
        await dock.hear()
        [accepted] = await answer(scripted)
        assert (accepted["id"], accepted["status"]) == ("d-1", "accepted")
        dock.say(result_of="d-1", status="succeeded")
        assert (await answer(scripted, 2))[1]["status"] == "succeeded"
        await stopped(robot)


async def test_a_program_that_connects_late_still_gets_its_command(scripted: ScriptedBroker, state_dir: Path) -> None:
    async with agent(state_dir, scripted) as robot:
        await subscribed(scripted)
        send(scripted, "dock", {"id": "d-1"})
        async with program(robot, "dock") as dock:
            assert (await dock.hear())["id"] == "d-1"
            dock.say(result_of="d-1", status="succeeded")
            await answer(scripted)
        await stopped(robot)


async def test_a_program_that_dies_midway_leaves_an_interrupted_command_which_is_not_run_again(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    async with agent(state_dir, scripted) as robot:
        await subscribed(scripted)
        async with program(robot, "dock") as dock:
            send(scripted, "dock", {"id": "d-1"})
            await dock.hear()
            dock.writer.transport.abort()
            [result] = await answer(scripted)
        assert (result["status"], result["reason"]) == ("interrupted", "the local program that performed it is gone")
        async with program(robot, "dock") as dock:
            send(scripted, "dock", {"id": "d-1"})
            send(scripted, "dock", {"id": "d-2"})
            assert (await dock.hear())["id"] == "d-2"
        await stopped(robot)


async def test_an_agent_that_is_killed_while_a_program_performs_tells_interrupted_afterwards(
    scripted: ScriptedBroker, state_dir: Path
) -> None:
    async with agent(state_dir, scripted) as robot:
        async with program(robot, "dock") as dock:
            await subscribed(scripted)
            send(scripted, "dock", {"id": "d-1"})
            await dock.hear()
            await robot.kill()
        scripted.expect_client_memory_lost()
        await robot.start()
        await scripted.wait_for(lambda: scripted.connected)
        results = await answer(scripted)
        assert results[-1]["status"] == "interrupted"
        assert results[-1]["reason"] == "the agent ended while it ran"
        await stopped(robot)


async def test_a_stop_while_a_program_performs_tells_interrupted(scripted: ScriptedBroker, state_dir: Path) -> None:
    async with agent(state_dir, scripted) as robot, program(robot, "dock") as dock:
        await subscribed(scripted)
        send(scripted, "dock", {"id": "d-1"})
        await dock.hear()
        await stopped(robot)
    [result] = await answer(scripted)
    assert result["status"] == "interrupted"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"commands": ["ping"]}, "ping is a command of the agent's own"),
        ({"commands": "dock"}, "commands must be a list of names"),
        ({"commands": ["a b"]}, "commands must be a list of names"),
        ({"commands": ["other"]}, "other is performed by another program"),
        ({"result_of": "x", "status": "succeeded"}, "no command x is being performed here"),
        ({"result_of": "x", "status": "done"}, "status must be one of failed, rejected, succeeded"),
        ({"result_of": 7, "status": "failed"}, "result_of must be the id of a command"),
        ({"result_of": "x", "status": "failed", "result": []}, "result must be an object"),
    ],
)
async def test_what_a_program_cannot_do_is_told_and_costs_nothing_else(
    scripted: ScriptedBroker, state_dir: Path, line: dict[str, object], told: str
) -> None:
    async with agent(state_dir, scripted) as robot, program(robot, "other"), program(robot) as dock:
        dock.say(**line, ref=7)
        answered = await dock.hear()
        assert (answered["ref"], answered["ok"]) == (7, False)
        assert told in answered["error"]
        dock.say(commands=["dock"], ref=8)
        assert await dock.hear() == {"ref": 8, "ok": True}
        await stopped(robot)

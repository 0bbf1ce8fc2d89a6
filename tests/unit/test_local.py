"""Which local program performs which command."""

import asyncio

from agent.commands.local import Local
from agent.model import Status


async def test_a_command_that_begins_when_its_program_has_just_gone_is_interrupted_and_does_not_hang() -> None:
    local = Local(lambda _: False, changed=lambda: None)
    program = local.program(lambda _: None)
    local.offer(program, ["dock"])
    command = local.find("dock")
    assert command is not None
    local.withdraw(program)  # while it was made durable that the command is being run
    async with asyncio.timeout(5):
        outcome = await command.run({}, command_id="d-1")
    assert outcome.status is Status.INTERRUPTED

"""Commands that local programs perform, over the socket (contract, section 8)."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent import encode
from agent.model import Outcome, Status

Send = Callable[[bytes], None]

_GONE = "the local program that performed it is gone"


class OfferError(ValueError):
    """A command that a local program cannot perform; its text is for that program."""


@dataclass(slots=True, eq=False)
class Program:
    """A local program that is connected: `send` gives it a line."""

    send: Send
    names: set[str] = field(default_factory=set)
    running: dict[str, asyncio.Future[Outcome]] = field(default_factory=dict)
    is_gone: bool = False


@dataclass(frozen=True, slots=True)
class _Command:
    """A command as a program performs it."""

    program: Program
    name: str
    is_idempotent: bool = False
    is_urgent: bool = False

    def refusal(self, _args: Mapping[str, Any]) -> str:
        """Return nothing: the program knows what it takes."""
        return ""

    async def run(self, args: Mapping[str, Any], *, command_id: str) -> Outcome:
        """Have the program perform it, and wait for its word."""
        if self.program.is_gone:
            return Outcome(status=Status.INTERRUPTED, reason=_GONE)
        if command_id in self.program.running:
            return Outcome(status=Status.REJECTED, reason="one with this id is being performed")
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.program.running[command_id] = outcome
        self.program.send(encode.document({"command": self.name, "id": command_id, "args": args}))
        try:
            return await outcome
        finally:
            self.program.running.pop(command_id, None)


class Local:
    """Which connected program performs which command. `changed` is called when a command can be performed newly."""

    def __init__(self, taken: Callable[[str], bool], *, changed: Callable[[], None]) -> None:
        self._taken = taken
        self._changed = changed
        self._programs: dict[str, Program] = {}

    def program(self, send: Send) -> Program:
        """Return a program that is connected: `send` gives it a line."""
        return Program(send)

    def offer(self, program: Program, names: Iterable[str]) -> None:
        """Have a program perform commands, all of them or, with OfferError, none."""
        for name in names:
            if self._taken(name):
                raise OfferError(f"{name} is a command of the agent's own")
            if self._programs.get(name, program) is not program:
                raise OfferError(f"{name} is performed by another program")
        for name in names:
            self._programs[name] = program
            program.names.add(name)
        self._changed()

    def answer(self, program: Program, command_id: str, outcome: Outcome) -> None:
        """Take a program's word of how a command ended. Raises OfferError where it performs no such command."""
        waiter = program.running.get(command_id)
        if waiter is None or waiter.done():
            raise OfferError(f"no command {command_id:.80} is being performed here")
        waiter.set_result(outcome)

    def withdraw(self, program: Program) -> None:
        """Note that a program is gone: what it was performing is interrupted."""
        program.is_gone = True
        for name in program.names:
            del self._programs[name]
        for waiter in program.running.values():
            if not waiter.done():
                waiter.set_result(Outcome(status=Status.INTERRUPTED, reason=_GONE))

    def find(self, name: str) -> _Command | None:
        """Return the command that a program performs by this name."""
        program = self._programs.get(name)
        return _Command(program, name) if program is not None else None

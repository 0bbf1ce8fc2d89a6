"""Plays a course with the real agent, and gathers what came of it for the judge."""

import asyncio
import signal
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.course import Course, Fault, Life
from tests.chaos.feeder import feed
from tests.chaos.ledger import Ledger
from tests.support import outbox_file
from tests.support.agent_process import AgentProcess
from tests.support.agent_socket import AgentSocket
from tests.support.child import ChildEndedError
from tests.support.connection import Phase
from tests.support.script import Received
from tests.support.scripted import ScriptedBroker

PLAYED_WITHIN, DRAINED_WITHIN = 90.0, 60.0
"""Seconds; what the broker refused again and again for its quota waits for up to 16 of them."""


@dataclass(slots=True)
class Outcome:
    """What the judge looks at. `figures` is the agent's last status, `counts` what its file says after its end."""

    ledger: Ledger = field(default_factory=Ledger)
    publishes: list[Received] = field(default_factory=list)
    accepted: list[Received] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    ends: dict[int, float] = field(default_factory=dict)
    """When each connection ended that had got its CONNACK, monotonic: what was under way is lost."""
    figures: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Accepted, delivered, quarantined, waiting of each stream."""
    waiting: dict[outbox_file.Identity, dict[str, Any]] = field(default_factory=dict)
    quarantined: dict[outbox_file.Identity, dict[str, Any]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    """What went wrong already while the course was played."""

    def __str__(self) -> str:
        again = sum(publish.packet.dup for publish in self.publishes)
        refused = sum(publish.code is not None and publish.code >= 0x80 for publish in self.publishes)
        return (
            f"{len(self.ledger.handed)} records handed in, {len(self.ledger.answered)} answered;"
            f" {len(self.ends)} sessions, {len(self.publishes)} publishes, {again} of them again, {refused} refused;"
            f" {len(self.quarantined)} records in quarantine"
        )


class Player:
    """Plays one course in `folder`; `story` tells afterwards what happened when."""

    def __init__(self, course: Course, folder: Path) -> None:
        self.outcome = Outcome()
        self._course = course
        self._broker = ScriptedBroker()
        self._broker.scripts.extend(course.scripts)
        self._robot = AgentProcess(
            folder,
            {**course.settings, "broker.urls": [self._broker.url]},
            environment={"PYTHONFAULTHANDLER": "1"},
        )
        self._up = asyncio.Event()
        self._began = time.monotonic()
        self._notes: list[tuple[float, str]] = []

    async def play(self) -> Outcome:
        """Play it to its end; what cannot be played is told in the outcome."""
        async with self._broker, self._robot:
            try:
                async with asyncio.timeout(PLAYED_WITHIN), asyncio.TaskGroup() as group:
                    for portions in self._course.feeds:
                        group.create_task(feed(self._robot.socket, self.outcome.ledger, portions, up=self._up))
                    group.create_task(self._weather())
                    await self._lives()
                await self._clear_up()
            except* (TimeoutError, ChildEndedError, OSError) as group:
                self.outcome.wrong += [f"{type(error).__name__}: {error}" for error in leaves(group)]
                await self._dump()
        self._gather()
        return self.outcome

    def story(self) -> str:
        """What happened, a line each, with the seconds since the beginning."""
        notes = list(self._notes)
        for item in self._broker.connections:
            script = item.script
            traits = [
                str(dict(script.properties)) if script.properties else "",
                f"abort after {script.abort_after}" if script.abort_after else "",
                "claims no session" if script.session_present is False else "",
                f"session present {item.connack.session_present}" if item.connack else script.hello.name,
                f"refused with 0x{script.reason:02X}" if script.reason else "",
            ]
            told = ", ".join(filter(None, traits))
            notes.append((item.opened, f"connection {item.number}: {told}"))
            if item.closed is not None:
                notes.append((item.closed, f"connection {item.number} ended after {item.publishes} publishes"))
        return "\n".join(f"{at - self._began:7.3f} {text}" for at, text in sorted(notes))

    def _note(self, text: str) -> None:
        self._notes.append((time.monotonic(), text))

    async def _dump(self) -> None:
        """Have an agent that hangs tell where: faulthandler prints the stacks of its threads."""
        if self._robot.child.running:
            self._robot.child.signal(signal.SIGABRT)
            await self._robot.wait()
        self.outcome.wrong.append("\n".join(("the agent's last lines:", *self._robot.lines[-80:])))

    # The agent's lives.

    async def _lives(self) -> None:
        for life in self._course.lives:
            if not life.patient or await self._comes_up():
                await asyncio.sleep(life.lasts)
            self._up.clear()
            await self._end(life)
            await self._is_forgotten()
            await self._robot.start()
        await self._comes_up()

    async def _comes_up(self) -> bool:
        try:
            await self._robot.wait_for_line("is up: ")
        except ChildEndedError as exc:
            self.outcome.wrong.append(f"the agent did not come up: {exc}")
            return False
        self._note("the agent is up")
        self._up.set()
        return True

    async def _end(self, life: Life) -> None:
        """End it, by itself or by force; an end of its own accord is noted as wrong."""
        robot = self._robot
        allowed = {-signal.SIGKILL}
        with suppress(ChildEndedError):
            if not life.kill:
                robot.sigterm()
                # Before it is up, SIGTERM may still be Python's.
                allowed |= {0} if life.patient else {0, -signal.SIGTERM}
                with suppress(TimeoutError):
                    await robot.wait(life.grace)
            await robot.kill()
        code = await robot.wait()
        self._ended(code, allowed)

    def _ended(self, code: int, allowed: set[int]) -> None:
        self._note(f"the agent ended with {code}")
        if code not in allowed:
            self.outcome.wrong.append(f"the agent ended with {code}: {self._robot.child.story()}")
        lines = self._robot.lines
        if traced := [place for place, line in enumerate(lines) if "Traceback" in line]:
            told = "\n".join(lines[max(0, traced[0] - 3) : traced[-1] + 30])
            self.outcome.wrong.append(f"the agent ended with {code}, and told of a bug:\n{told}")

    async def _is_forgotten(self) -> None:
        """Wait until the broker has read all that the dead process sent; then its successor need not know of it."""
        await self._broker.wait_for(lambda: all(item.closed is not None for item in self._broker.connections))
        self._broker.expect_client_memory_lost()

    # The broker's moods.

    async def _weather(self) -> None:
        for fault in self._course.weather:
            self._note(f"{fault.kind} for {fault.lasts:.2f} s{fault.end and ', then '}{fault.end}")
            async with self._fault(fault):
                await asyncio.sleep(fault.lasts)
                if "sessions lost" in fault.end:
                    self._broker.lose_sessions()
                if "abort" in fault.end:
                    self._abort()

    def _fault(self, fault: Fault) -> AbstractAsyncContextManager[None]:
        broker = self._broker
        faults: dict[str, Callable[[], AbstractAsyncContextManager[None]]] = {
            "calm": nullcontext,
            "dropping acks": broker.dropping_acks,
            "holding acks": broker.holding_acks,
            "delaying acks": lambda: broker.delaying_acks(0.3 * fault.amount),
            "reversing acks": lambda: broker.reversing_acks(2 + int(20 * fault.amount)),
            "stalling": broker.stalling,
            "unreachable": broker.unreachable,
        }
        return faults[fault.kind]()

    def _abort(self) -> None:
        for item in self._broker.connections:
            if item.phase is Phase.OPEN:
                item.abort()

    # The end.

    async def _clear_up(self) -> None:
        """All faults have ended: everything is delivered, and the agent stops in order."""
        self._note("all faults have ended")
        self._broker.scripts.clear()
        self._abort()
        self.outcome.figures = await drained(self._robot)
        self._note("everything is delivered")
        self._robot.sigterm()
        self._ended(await self._robot.wait(), {0})

    def _gather(self) -> None:
        outcome, file = self.outcome, self._robot.folder / "outbox.db"
        outcome.publishes, outcome.accepted = self._broker.publishes, self._broker.accepted
        outcome.violations = [str(violation) for violation in self._broker.violations]
        outcome.ends = {
            item.number: item.closed
            for item in self._broker.connections
            if item.closed is not None and item.connack is not None and item.connack.reason < 0x80
        }
        try:
            outcome.waiting, outcome.quarantined = outbox_file.waiting(file), outbox_file.quarantined(file)
            with outbox_file.opened(file) as database:
                rows = database.execute("SELECT name, accepted, delivered, quarantined, waiting FROM stream")
                outcome.counts = {name: tuple(numbers) for name, *numbers in rows}
        except AssertionError as exc:
            outcome.wrong.append(f"the file is not consistent: {exc}")


async def drained(robot: AgentProcess) -> dict[str, Any]:
    """Wait until everything that the agent accepted has ended, and return its figures."""
    figures: dict[str, Any] = {}
    try:
        async with AgentSocket(robot.socket) as local, asyncio.timeout(DRAINED_WITHIN):
            while not _all_ended(figures := await local.status()):  # noqa: ASYNC110  another process's figures
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise TimeoutError(f"not everything is delivered after {DRAINED_WITHIN:g} s: {figures}") from None
    return figures


def _all_ended(figures: dict[str, Any]) -> bool:
    """Nothing waits, and what was refused for good has moved to the quarantine, with the loss of it told."""
    ended = all(
        stream["accepted"] == stream["delivered"] + stream["quarantined"] for stream in figures["streams"].values()
    )
    return ended and not figures["outbox"]["waiting"]


def leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """The errors in a group and its groups."""
    return [
        leaf
        for error in group.exceptions
        for leaf in (leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]

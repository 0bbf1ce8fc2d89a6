"""Power cuts: the agent's state lies on a file system of its own, which dies at a random moment."""

import asyncio
import itertools
import random
import signal
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from agent import sources
from tests.chaos.feeder import Feeder
from tests.chaos.judge import contents
from tests.chaos.ledger import Ledger
from tests.chaos.play import Outcome, drained
from tests.support import outbox_file
from tests.support.agent_process import AgentProcess, Setting
from tests.support.disk import Disk
from tests.support.outbox_file import Identity
from tests.support.packets import Publish
from tests.support.script import Script
from tests.support.scripted import ScriptedBroker
from tests.support.slow_fsync import SlowFsync
from tests.support.subscriber import records

STREAMS = {"stored": 6, "synced": 3, "event/bump": 1}
"""Each with its weight."""
RATE, TOGETHER = 1_000, 10
AFTERWARDS = 200
ONE_FSYNC = 0.5
"""Seconds beyond `commit_interval` that a commit may take, on a busy machine with a slow disk."""
SHOWN = 5


@dataclass(slots=True, kw_only=True)
class Cut:
    """One cut and what it cost. `at` is the last monotonic time before it."""

    commit_interval: float
    silent: bool
    """Whether the broker was there and received, but did not acknowledge; else it was unreachable."""
    slow: bool
    """Whether each fsync takes 10 ms longer."""
    after: float
    at: float = 0.0
    ledger: Ledger = field(default_factory=Ledger)
    answered: int = 0
    """How many records had their answer before the next start."""
    lost: list[Identity] = field(default_factory=list)
    """Those of them that did not arrive."""
    ages: list[float] = field(default_factory=list)
    """How long before the cut each `stored` record was handed in that did not arrive, in seconds."""
    wrong: list[str] = field(default_factory=list)

    def failures(self) -> list[str]:
        longest = self.commit_interval + ONE_FSYNC
        return [
            *(f"lost, and was answered: {identity}" for identity in self.lost[:SHOWN]),
            *(f"lost, and was handed in {age:.3f} s before the cut" for age in self.ages[:SHOWN] if age > longest),
            *self.wrong,
        ]

    def __str__(self) -> str:
        world = f"{'a silent broker' if self.silent else 'no broker'}{', slow fsyncs' * self.slow}"
        oldest = f", the oldest {max(self.ages):.3f} s old" if self.ages else ""
        return (
            f"cut after {self.after:.2f} s with {world}, commit_interval {self.commit_interval:g} s:"
            f" {self.answered} answered, {len(self.lost)} of them lost;"
            f" {len(self.ages)} stored ones handed in before the cut did not arrive{oldest}"
        )


async def cut_power(seed: int, folder: Path) -> Cut:
    """Feed an agent whose broker does not answer, cut the power, and see what arrives after the next start."""
    choose = random.Random(f"{seed} power")
    cut = Cut(
        commit_interval=choose.choice((0.1, 0.25, 0.5)),
        silent=choose.random() < 0.5,
        slow=choose.random() < 0.5 and SlowFsync.COMPILER is not None,
        after=choose.uniform(0.8, 4.0),
    )
    settings: dict[str, Setting] = {
        "device_id": "rover",
        "broker.dead_after": 300,
        "broker.backoff.base": 0.05,
        "broker.backoff.cap": 0.2,
        "broker.backoff.link_cap": 0.2,
        "outbox.commit_interval": cut.commit_interval,
        "outbox.fresh_for": choose.choice((0.5, 5.0)),
        "streams.synced.delivery": "synced",
        **{f"streams.{name}.enabled": False for name in sources.STARTED},
    }
    with Disk(folder) as disk:
        async with ScriptedBroker(default=Script(ack=_only_status)) as broker:
            environment = SlowFsync(folder, milliseconds=10).environment if cut.slow else {}
            robot = AgentProcess(disk.root, {**settings, "broker.urls": [broker.url]}, environment=environment)
            async with nullcontext() if cut.silent else broker.unreachable(), robot:
                await _feed_until_cut(robot, disk, cut, choose)
            disk.power_up()
            seen, broker.default = len(broker.accepted), Script()
            broker.expect_client_memory_lost()
            async with robot:
                await _drain(robot, cut.ledger, choose)
            _reckon(cut, broker, arrived={row[:3]: row.payload["n"] for row in records(broker.accepted[seen:])})
        if waiting := outbox_file.waiting(disk.root / "outbox.db"):
            cut.wrong.append(f"{len(waiting)} records wait in the file")
    return cut


def _only_status(packet: Publish) -> int | None:
    return 0 if packet.topic.endswith("/status") else None


async def _feed_until_cut(robot: AgentProcess, disk: Disk, cut: Cut, choose: random.Random) -> None:
    """Feed it at `RATE`; its processors stop with its disk.

    They stop a moment earlier, or it could answer for an fsync that was under way: the kernel may call that a success.
    """
    await robot.wait_for_line("is up: ")
    feeder = Feeder(robot.socket, cut.ledger)
    async with feeder.connected(), asyncio.TaskGroup() as group:
        group.create_task(_feed(feeder, choose))
        await asyncio.sleep(cut.after)
        cut.at = time.monotonic()
        robot.child.signal(signal.SIGSTOP)
        disk.cut_power()
        await robot.kill()
    cut.answered = len(cut.ledger.answered)


async def _feed(feeder: Feeder, choose: random.Random) -> None:
    began = time.monotonic()
    for portion in itertools.count(1):
        if not await feeder.hand(_some(choose, TOGETHER)):
            return
        await asyncio.sleep(max(0.0, began + portion * TOGETHER / RATE - time.monotonic()))


def _some(choose: random.Random, count: int) -> list[tuple[str, int]]:
    streams = choose.choices(list(STREAMS), list(STREAMS.values()), k=count)
    return [(stream, choose.randint(10, 300)) for stream in streams]


async def _drain(robot: AgentProcess, ledger: Ledger, choose: random.Random) -> None:
    """It goes on as if nothing had been, gives new identities to new records, and delivers everything."""
    await robot.wait_for_line("is up: ")
    feeder = Feeder(robot.socket, ledger)
    async with feeder.connected():
        await feeder.hand(_some(choose, AFTERWARDS))
    await drained(robot)
    robot.sigterm()
    assert await robot.wait() == 0


def _reckon(cut: Cut, broker: ScriptedBroker, arrived: dict[Identity, int]) -> None:
    numbers = set(arrived.values())
    cut.lost = [identity for identity in cut.ledger.answered if identity not in arrived]
    cut.ages = [
        cut.at - record.at
        for record in cut.ledger.handed.values()
        if record.stream == "stored" and record.number not in numbers and record.at <= cut.at
    ]
    cut.wrong = [
        *cut.ledger.wrong[:SHOWN],
        *contents(Outcome(ledger=cut.ledger, publishes=broker.publishes)),
        *map(str, broker.violations[:SHOWN]),
    ]

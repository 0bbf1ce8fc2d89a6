"""The outbox on a real file against a simple model, in whatever order things happen.

A crash is a process that ends without another word: its memory is gone, its file is kept as it was.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.lanes import Room
from agent.model import Delivery, Record, Sample, Stream
from agent.store.database import Database
from agent.store.outbox import Outbox

STREAMS = [
    Stream(name="stored"),
    Stream(name="urgent", priority=9),
    Stream(name="batched", batch=3, batch_for=1.0),
    Stream(name="synced", delivery=Delivery.SYNCED),
]
ROOM = Room(records=100, size=100_000)
COMMIT_INTERVAL = 1.0
FRESH_FOR = 3.0
Identity = tuple[str, int, int]
T = TypeVar("T")


def identity(record: Record) -> Identity:
    return record.stream.name, record.epoch, record.seq


class OutboxModel(RuleBasedStateMachine):
    """`safe`: what must come out again. `at_risk`: accepted, but memory alone holds it. `ended`: settled or refused."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="roamd-model-"))
        self.generation = 0
        self.now = 1000.0
        self.given: set[Identity] = set()
        self.seen: set[Identity] = set()
        self.tails: dict[Identity, bytes] = {}
        self.safe: set[Identity] = set()
        self.at_risk: set[Identity] = set()
        self.ended: set[Identity] = set()
        self.maybe_again: set[Identity] = set()
        self.hands: list[Record] = []
        self.last: dict[tuple[str, str, int], int] = {}
        """The highest number that came out of each lane, by stream and epoch."""

    def run(self, what: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(what)

    @initialize()
    def open(self) -> None:
        async def opened() -> None:
            self.entered = Database.open(self.folder / "outbox.db")
            self.database = await self.entered.__aenter__()
            self.outbox = Outbox(
                self.database,
                device_id="rover",
                epoch=await self.database.begin_epoch(boot_id="boot", started_ts=1),
                last_row=await self.database.last_row(),
                counts=await self.database.counts(),
                streams=STREAMS,
                commit_interval=COMMIT_INTERVAL,
                fresh_for=FRESH_FOR,
            )

        self.run(opened())

    @rule(stream=st.sampled_from(STREAMS), count=st.integers(1, 5))
    def accept(self, stream: Stream, count: int) -> None:
        for _ in range(count):
            record = self.outbox.accept(Sample(stream=stream.name, ts=1, taken=self.now, fields={"n": len(self.given)}))
            name = identity(record)
            assert name not in self.given, "an identity was given twice"
            self.given.add(name)
            self.tails[name] = record.tail
            self.at_risk.add(name)

    @rule(seconds=st.sampled_from([0.1, 0.6, 1.5, 4.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(everything=st.booleans())
    def commit(self, everything: bool) -> None:  # noqa: FBT001
        plan = self.outbox.plan(self.now, everything=everything)
        if plan.changes:
            self.run(self.database.write(plan.changes))
        self.outbox.committed(plan)
        written = {identity(record) for record in plan.written if record.seq > 0}
        self.at_risk -= written
        self.safe |= written - self.ended
        self.maybe_again.clear()

    @rule(most=st.integers(1, 6))
    def take_fresh(self, most: int) -> None:
        for _ in range(most):
            taken = self.outbox.next_fresh(self.now, ROOM)
            if not taken:
                break
            assert self.now - taken[0].taken < FRESH_FOR
            for record in taken:
                self.take(record, "fresh")

    @rule()
    def take_page(self) -> None:
        for record in self.run(self.outbox.page()):
            self.take(record, "backlog")

    def take(self, record: Record, lane: str) -> None:
        assert all(record.row != other.row for other in self.hands), "a record is in two hands"
        self.hands.append(record)
        if record.seq == 0:
            return
        name = identity(record)
        assert name in self.given
        assert record.tail == self.tails[name]
        assert name not in self.ended or name in self.maybe_again, "what had ended came back"
        if name not in self.seen:
            stream = (lane, record.stream.name, record.epoch)
            assert record.seq > self.last.get(stream, 0), "first sent out of order"
            self.last[stream] = record.seq
        self.seen.add(name)

    @precondition(lambda self: self.hands)
    @rule(data=st.data(), how=st.sampled_from(["settle", "leave", "quarantine"]))
    def end(self, data: st.DataObject, how: str) -> None:
        count = data.draw(st.integers(1, len(self.hands)))
        records, self.hands = self.hands[:count], self.hands[count:]
        names = {identity(record) for record in records if record.seq > 0}
        if how == "leave":
            self.outbox.leave(sorted(records, key=lambda record: record.row), self.now)
            return
        if how == "settle":
            self.outbox.settle(records)
        else:
            for record in records:
                self.outbox.quarantine(record, reason_code=0x87, reason="refused")
        self.ended |= names
        self.safe -= names
        self.at_risk -= names

    @rule()
    def nothing_is_stranded(self) -> None:
        """Once all is written and too old to be fresh, it is in somebody's hands or comes out by pages."""
        self.now += 10 * FRESH_FOR
        self.commit(everything=True)
        self.now += 10 * FRESH_FOR
        self.commit(everything=True)
        for _ in range(100):
            if not self.outbox.unpaged:
                break
            self.take_page()
        assert self.safe == {identity(record) for record in self.hands if record.seq > 0}

    @rule()
    def crash(self) -> None:
        """The file as it is at this moment goes on; an end that was not committed may come again, and is not lost."""
        self.generation += 1
        after = self.folder / f"after-{self.generation}"
        after.mkdir()
        for file in self.folder.glob("outbox.db*"):
            shutil.copy(file, after)
        self.run(self.entered.__aexit__(None, None, None))
        for file in self.folder.glob("outbox.db*"):
            file.unlink()
        for file in after.iterdir():
            shutil.move(file, self.folder)
        self.hands.clear()
        self.at_risk.clear()
        self.maybe_again = set(self.ended)
        self.open()
        self.comes_out_again()

    def comes_out_again(self) -> None:
        """Everything safe is paged after a start; then the next generation begins with the records left again."""
        records: list[Record] = []
        while self.outbox.unpaged:
            records += self.run(self.outbox.page())
        found = {identity(record) for record in records if record.seq > 0}
        assert self.safe <= found, f"lost: {self.safe - found}"
        assert found <= self.safe | self.maybe_again
        assert len(records) == self.outbox.waiting
        self.safe = found
        self.ended -= found
        self.outbox.leave(records, self.now + 10 * FRESH_FOR)

    @invariant()
    def the_counts_agree(self) -> None:
        if not hasattr(self, "outbox"):
            return
        documents = sum(channel.waiting for channel in self.outbox.channels() if channel.stream.name == "/loss")
        telemetry = sum(channel.waiting for channel in self.outbox.channels()) - documents
        unfinished = len(self.outbox._settled) + len([one for one in self.outbox._refused if one[0].seq > 0])
        in_documents = len([record for record in self.outbox._settled if record.seq == 0])
        assert telemetry - (unfinished - in_documents) == len(self.safe) + len(self.at_risk)

    def teardown(self) -> None:
        if hasattr(self, "outbox"):
            plan = self.outbox.plan(self.now, everything=True)
            if plan.changes:
                self.run(self.database.write(plan.changes))
            self.outbox.committed(plan)
            self.safe |= self.at_risk
            self.at_risk = set()
            self.hands.clear()
            self.maybe_again = set()
            self.run(self.entered.__aexit__(None, None, None))
            self.open()
            self.comes_out_again()
            self.run(self.entered.__aexit__(None, None, None))
        self.loop.close()
        shutil.rmtree(self.folder)


TestOutboxModel: Callable[[], None] = OutboxModel.TestCase
TestOutboxModel.settings = settings(  # type: ignore[attr-defined]
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)

"""What the broker has and the controller has not confirmed, on a real file."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from agent import clock
from agent.model import Confirm, Sample, Stream
from agent.store import unconfirmed
from agent.store.database import Database
from agent.store.outbox import Outbox
from agent.store.transaction import Changes
from tests.unit.test_outbox import fresh, write


class SlowReader(Database):
    """A database whose readers get what they read only once `go` is set."""

    go: asyncio.Event
    has_read: asyncio.Event

    async def rows(self, query: str, values: Iterable[object] = ()) -> list[tuple[Any, ...]]:
        found = await super().rows(query, values)
        self.has_read.set()
        await self.go.wait()
        return found


async def test_an_answer_that_is_read_while_the_one_before_is_written_counts_once(tmp_path: Path) -> None:
    async with SlowReader.open(tmp_path / "outbox.db") as database:
        assert isinstance(database, SlowReader)
        database.go, database.has_read = asyncio.Event(), asyncio.Event()
        outbox = Outbox(
            database,
            device_id="rover",
            epoch=await database.begin_epoch(boot_id="boot", started_ts=1),
            last_row=0,
            counts=[],
            streams=[Stream(name="imu")],
            commit_interval=3600.0,
            fresh_for=7200.0,
            confirm=Confirm.CONTROLLER,
        )
        for _ in range(4):
            outbox.accept(Sample(stream="imu", ts=1, taken=clock.monotonic(), fields={}))
        outbox.settle(fresh(outbox))
        await write(outbox, everything=True)
        await database.write(Changes(statements=[(unconfirmed.ASK, ())]))
        database.go.set()
        await outbox.confirm("imu", [[1, 1, 2]])
        database.go.clear()
        database.has_read.clear()
        async with asyncio.TaskGroup() as group:
            group.create_task(outbox.confirm("imu", [[1, 1, 2]]))
            await database.has_read.wait()
            await write(outbox)
            database.go.set()
        await write(outbox)
        counts = outbox.channels()["imu"].counts
    assert (counts.accepted, counts.delivered, counts.unconfirmed, counts.waiting) == (4, 2, 0, 2)
    assert outbox.waiting == 2

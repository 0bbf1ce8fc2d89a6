"""The outbox on a real file."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent import clock, topics
from agent.errors import StorageError
from agent.lanes import Room
from agent.model import Delivery, Record, Sample, Stream
from agent.store.committer import commit
from agent.store.database import Database
from agent.store.inspect import read_counts
from agent.store.memory import MOST_UNWRITTEN
from agent.store.outbox import Outbox
from agent.store.transaction import Changes

STREAMS = [
    Stream(name="imu"),
    Stream(name="slow", priority=1),
    Stream(name="log", delivery=Delivery.SYNCED),
    Stream(name="view", delivery=Delivery.LIVE, qos=0),
]

ROOM = Room(records=100, size=100_000)


def sample(stream: str = "imu", *, taken: float | None = None, **fields: float) -> Sample:
    return Sample(stream=stream, ts=1763870000123, taken=clock.monotonic() if taken is None else taken, fields=fields)


@asynccontextmanager
async def opened(path: Path, *, commit_interval: float = 3600.0, fresh_for: float = 7200.0) -> AsyncIterator[Outbox]:
    """Open an outbox without its committer: tests commit by `write` when they mean to."""
    async with Database.open(path) as database:
        yield Outbox(
            database,
            device_id="rover",
            epoch=await database.begin_epoch(boot_id="boot", started_ts=1),
            last_row=await database.last_row(),
            counts=await database.counts(),
            streams=STREAMS,
            commit_interval=commit_interval,
            fresh_for=fresh_for,
        )


async def write(outbox: Outbox, *, everything: bool = False) -> int:
    """Commit what is due, and return how many rows were inserted."""
    plan = outbox.plan(clock.monotonic(), everything=everything)
    if plan.changes:
        await outbox._database.write(plan.changes)
    outbox.committed(plan)
    return len(plan.changes.insert)


async def pages(outbox: Outbox) -> list[Record]:
    records: list[Record] = []
    while outbox.unpaged:
        records += await outbox.page()
    return records


def fresh(outbox: Outbox) -> list[Record]:
    records = []
    while taken := outbox.next_fresh(clock.monotonic(), ROOM):
        records += taken
    return records


async def kept(outbox: Outbox, record: Record) -> None:
    """Wait until the promise of the record's stream holds."""
    if (promise := outbox.promise(record)) is not None:
        await asyncio.shield(promise)


def seqs(records: Sequence[Record]) -> list[int]:
    return [record.seq for record in records]


async def test_each_stream_counts_from_one_in_each_epoch(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        async with opened(tmp_path / "outbox.db") as outbox:
            assert outbox.epoch == epoch
            assert [outbox.accept(sample(stream)).seq for stream in ("imu", "imu", "slow", "imu")] == [1, 2, 1, 3]


async def test_a_record_that_is_acknowledged_in_time_is_never_written(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db") as outbox:
        for _ in range(10):
            outbox.accept(sample())
        outbox.settle(fresh(outbox))
        assert await write(outbox, everything=True) == 0
        assert outbox.waiting == 0
        assert outbox.empty.is_set()


async def test_what_was_committed_comes_back_in_order_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with opened(path) as outbox:
        accepted = [outbox.accept(sample(n=n)) for n in range(2500)]
        assert await write(outbox, everything=True) == 2500
    async with opened(path) as outbox:
        assert outbox.waiting == 2500
        records = await pages(outbox)
        assert seqs(records) == list(range(1, 2501))
        assert [record.tail for record in records] == [record.tail for record in accepted]
        assert {record.epoch for record in records} == {1}
        assert await outbox.page() == []


async def test_what_was_not_committed_is_lost_with_the_process_and_its_numbers_are_not_given_again(
    tmp_path: Path,
) -> None:
    path = tmp_path / "outbox.db"
    async with opened(path) as outbox:
        lost = outbox.accept(sample())
    async with opened(path) as outbox:
        assert outbox.waiting == 0
        again = outbox.accept(sample())
        assert (again.epoch, again.seq) > (lost.epoch, lost.seq)


async def test_a_synced_record_is_not_offered_before_it_is_on_the_disk(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db") as outbox:
        record = outbox.accept(sample("log"))
        assert not outbox.has_fresh(clock.monotonic())
        assert await write(outbox) == 1
        assert fresh(outbox) == [record]


async def test_many_synced_records_share_one_transaction(tmp_path: Path) -> None:
    until = asyncio.Event()
    async with opened(tmp_path / "outbox.db") as outbox:
        database = outbox._database
        writes = []
        original = database.write

        async def counting(changes: object) -> None:
            writes.append(changes)
            await original(changes)  # type: ignore[arg-type]

        database.write = counting  # type: ignore[method-assign]
        async with asyncio.TaskGroup() as group:
            group.create_task(commit(outbox, database, until=until))
            records = [outbox.accept(sample("log")) for _ in range(500)]
            await asyncio.gather(*(kept(outbox, record) for record in records))
            until.set()
            outbox.stir.set()
        assert 1 <= len(writes) <= 3


async def test_the_promise_of_a_stored_record_holds_once_it_is_acknowledged(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db") as outbox:
        record = outbox.accept(sample())
        promise = outbox.promise(record)
        assert promise is not None
        assert not promise.done()
        outbox.settle(fresh(outbox))
        assert promise.done()
        assert outbox.promise(record) is None


async def test_the_promise_of_a_live_record_holds_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db") as outbox:
        assert outbox.promise(outbox.accept(sample("view"))) is None
        assert outbox.waiting == 0


async def test_of_a_live_stream_only_the_newest_is_kept_and_the_others_are_counted(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db") as outbox:
        for n in range(5):
            outbox.accept(sample("view", n=n))
        now = clock.monotonic()
        newest = outbox.next_live(now)
        assert newest is not None
        assert newest.seq == 5
        assert outbox.next_live(now) is None
        (channel,) = [one for one in outbox.channels() if one.stream.name == "view"]
        assert channel.dropped == 4


async def test_a_record_settled_while_it_is_written_is_deleted_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with opened(path) as outbox:
        outbox.accept(sample())
        (record,) = fresh(outbox)
        plan = outbox.plan(clock.monotonic(), everything=True)
        outbox.settle([record])
        await outbox._database.write(plan.changes)
        outbox.committed(plan)
        assert await pages(outbox) == []
        await write(outbox, everything=True)
    async with opened(path) as outbox:
        assert outbox.waiting == 0
        assert await outbox.page() == []


async def test_records_that_grew_old_in_memory_are_paged_from_the_disk(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db", commit_interval=1.0, fresh_for=5.0) as outbox:
        long_ago = clock.monotonic() - 10.0
        for _ in range(3):
            outbox.accept(sample(taken=long_ago))
        young = outbox.accept(sample())
        assert await write(outbox) == 4
        assert seqs(await pages(outbox)) == [1, 2, 3]
        assert fresh(outbox) == [young]


async def test_left_records_are_paged_again_and_those_in_other_hands_are_not(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with opened(path) as outbox:
        for _ in range(4):
            outbox.accept(sample())
        await write(outbox, everything=True)
    async with opened(path) as outbox:
        records = await pages(outbox)
        outbox.leave([records[1], records[3]], clock.monotonic() + 10_000)
        assert seqs(await pages(outbox)) == [2, 4]


async def test_a_quarantined_record_is_kept_apart_and_told_as_lost(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with opened(path) as outbox:
        for _ in range(3):
            outbox.accept(sample())
        for record in fresh(outbox)[1:]:
            outbox.quarantine(record, reason_code=0x87, reason="0x87 not authorized")
        await write(outbox, everything=True)
        (loss,) = [record for record in fresh(outbox) if record.stream.name == topics.LOSS]
        assert b'"stream":"imu","epoch":1,"first_seq":2,"last_seq":3,"count":2,"reason":"rejected"' in loss.tail
        rows = await outbox._database._writer.execute_fetchall("SELECT seq, reason_code, reason FROM quarantine")
        assert [tuple(row) for row in rows] == [(2, 0x87, "0x87 not authorized"), (3, 0x87, "0x87 not authorized")]
        outbox.quarantine(loss, reason_code=0x87, reason="0x87 not authorized")
        await write(outbox, everything=True)
        assert fresh(outbox) == []
    (imu,) = [counts for counts in await read_counts(path) if counts.name == "imu"]
    assert (imu.accepted, imu.delivered, imu.quarantined, imu.waiting) == (3, 0, 2, 1)


async def test_memory_that_is_full_is_written_early_and_then_has_room_again(tmp_path: Path) -> None:
    until = asyncio.Event()
    async with opened(tmp_path / "outbox.db") as outbox, asyncio.TaskGroup() as group:
        for _ in range(MOST_UNWRITTEN):
            outbox.accept(sample())
        assert not outbox._memory.room.is_set()
        group.create_task(commit(outbox, outbox._database, until=until))
        async with asyncio.timeout(30):
            await outbox.room()
        assert sum(channel.unwritten for channel in outbox.channels()) == 0
        until.set()
        outbox.stir.set()


async def test_reserved_names_are_refused_and_use_up_no_number(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db") as outbox:
        with pytest.raises(ValueError, match="reserved"):
            outbox.accept(sample(seq=1))
        assert outbox.accept(sample()).seq == 1


async def test_events_carry_the_contracts_id(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db") as outbox:
        record = outbox.accept(sample("event/door_opened"))
        assert record.stream.delivery is Delivery.SYNCED
        assert record.tail == b',"id":"rover-door_opened-1-1"}'


async def test_a_file_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with opened(path) as outbox:
        await outbox._database._writer.execute("PRAGMA user_version = 99")
    with pytest.raises(StorageError, match="schema version 99, and this roamd knows versions up to"):
        async with opened(path):
            pass


async def test_a_database_of_another_program_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with opened(path) as outbox:
        await outbox._database._writer.execute("PRAGMA application_id = 1")
    with pytest.raises(StorageError, match="database of another program"):
        async with opened(path):
            pass


async def test_a_file_that_is_no_database_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    path.write_bytes(b"this is not a database " * 500)
    with pytest.raises(StorageError, match=f"cannot open {path}"):
        async with opened(path):
            pass


async def test_the_file_is_in_wal_mode_and_synced_in_full(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db") as outbox:
        writer = outbox._database._writer
        assert [tuple(row) for row in await writer.execute_fetchall("PRAGMA journal_mode")] == [("wal",)]
        assert [tuple(row) for row in await writer.execute_fetchall("PRAGMA synchronous")] == [(2,)]


async def test_rows_keep_their_numbers_to_themselves_after_the_table_was_empty(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with opened(path) as outbox:
        first = outbox.accept(sample())
        await write(outbox, everything=True)
        outbox.settle(fresh(outbox))
        await write(outbox, everything=True)
    async with opened(path) as outbox:
        assert outbox.accept(sample()).row > first.row


async def test_memory_that_is_full_for_a_moment_only_is_not_written(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db") as outbox:
        records = [outbox.accept(sample()) for _ in range(MOST_UNWRITTEN)]
        now = clock.monotonic()
        due = outbox.next_commit(now)
        assert due is not None
        assert due > now
        outbox.settle(records[:10])
        await outbox.room()
        due = outbox.next_commit(clock.monotonic())
        assert due is None or due > clock.monotonic() + 60
        assert await write(outbox) == 0


async def test_records_of_a_dead_link_are_written_together_not_one_by_one(tmp_path: Path) -> None:
    until = asyncio.Event()
    async with opened(tmp_path / "outbox.db", commit_interval=0.05) as outbox:
        database = outbox._database
        inserted = []
        original = database.write

        async def counting(changes: Changes) -> None:
            inserted.append(len(changes.insert))
            await original(changes)

        database.write = counting  # type: ignore[method-assign]
        began = clock.monotonic()
        async with asyncio.TaskGroup() as group:
            group.create_task(commit(outbox, database, until=until))
            for _ in range(200):
                last = outbox.accept(sample())
                await asyncio.sleep(0.001)
            await kept(outbox, last)
            until.set()
            outbox.stir.set()
        assert sum(inserted) == 200
        assert len(inserted) <= (clock.monotonic() - began) / 0.05 + 2


async def test_rows_that_were_deleted_leave_nothing_in_memory(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox.db") as outbox:
        for _ in range(50):
            outbox.accept(sample("log"))
            await write(outbox)
            outbox.settle(fresh(outbox))
            await write(outbox)
        assert outbox.waiting == 0
        sets = [value for value in vars(outbox).values() if isinstance(value, set | dict | list)]
        assert [len(value) for value in sets if len(value) > 5] == []


async def test_counts_are_true_after_a_stop_also_of_what_was_never_written(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with opened(path) as outbox:
        for stream in ("imu", "log", "view"):
            outbox.accept(sample(stream))
        await write(outbox)
        outbox.settle(fresh(outbox))
        live = outbox.next_live(clock.monotonic())
        assert live is not None
        outbox.settle([live])
        await write(outbox, everything=True)
    counts = {one.name: (one.accepted, one.delivered, one.waiting) for one in await read_counts(path)}
    assert counts == {"imu": (1, 1, 0), "log": (1, 1, 0), "view": (1, 1, 0)}


async def test_rows_of_a_stream_that_became_live_are_deleted_once_delivered(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with opened(path) as outbox:
        for _ in range(5):
            outbox.accept(sample("imu"))
        await write(outbox, everything=True)
    async with Database.open(path) as database:
        outbox = Outbox(
            database,
            device_id="rover",
            epoch=await database.begin_epoch(boot_id="boot", started_ts=1),
            last_row=await database.last_row(),
            counts=await database.counts(),
            streams=[Stream(name="imu", delivery=Delivery.LIVE, qos=0)],
            commit_interval=1.0,
            fresh_for=5.0,
        )
        outbox.settle(await pages(outbox))
        await write(outbox, everything=True)
        assert outbox.waiting == 0
        assert outbox.empty.is_set()
        assert (await database.page(after=0, streams=None)) == ([], True)


async def test_a_page_of_a_priority_has_no_rows_of_another(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    async with opened(path) as outbox:
        for _ in range(1500):
            outbox.accept(sample("imu"))
        outbox.accept(sample("slow"))
        await write(outbox, everything=True)
    async with opened(path) as outbox:
        assert {record.stream.name for record in await outbox.page()} == {"imu"}
        assert [record.stream.name for record in await outbox.page(but={5})] == ["slow"]
        rest = await pages(outbox)
        assert [record.seq for record in rest] == list(range(1001, 1501))

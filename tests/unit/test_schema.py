"""The schema's versions: forward only, in one transaction each."""

import asyncio
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest

from agent.errors import StorageError
from agent.store import database
from agent.store.database import Database
from agent.store.schema import MIGRATIONS
from agent.store.transaction import Changes, Counts

LATER = "ALTER TABLE outbox ADD COLUMN colour TEXT NOT NULL DEFAULT 'grey'"


async def made(path: Path) -> None:
    """Make a file of today's version with a record in it."""
    async with Database.open(path) as opened:
        await opened.begin_epoch(boot_id="boot", started_ts=1)
        counts = Counts(id=1, name="imu", accepted=1, waiting=1, waiting_bytes=1)
        await opened.write(Changes(insert=[(1, 1, 1, 1, 5, 5, b"}")], counts=[counts]))


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as file:
        return int(file.execute("PRAGMA user_version").fetchone()[0])


async def test_an_older_file_is_brought_up_to_date_and_keeps_its_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "outbox.db"
    await made(path)
    monkeypatch.setattr(database, "MIGRATIONS", (*MIGRATIONS, LATER))
    async with Database.open(path) as opened:
        assert await opened.page(after=0, streams=None) == ([(1, 1, 1, 1, 5, 5, b"}")], True)
    assert version(path) == len(MIGRATIONS) + 1
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT colour FROM outbox").fetchall() == [("grey",)]


async def test_a_step_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "outbox.db"
    await made(path)
    monkeypatch.setattr(database, "MIGRATIONS", (*MIGRATIONS, f"{LATER}; SELECT no_such_function()"))
    with pytest.raises(StorageError, match=r"cannot open .*outbox\.db: no such function"):
        async with Database.open(path):
            pass
    assert version(path) == len(MIGRATIONS)
    monkeypatch.undo()
    async with Database.open(path) as opened:
        assert (await opened.page(after=0, streams=None))[1]
    with closing(sqlite3.connect(path)) as file:
        assert "colour" not in [row[1] for row in file.execute("PRAGMA table_info(outbox)")]


async def test_a_file_of_a_newer_roamd_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    await made(path)
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(StorageError, match=r"schema version 99.*written by a newer roamd"):
        async with Database.open(path):
            pass
    assert path.read_bytes() == before


async def filled(opened: Database, *sizes: int) -> None:
    """Write rows of these sizes, of three streams in turn."""
    rows = [(row, row % 3 + 1, 1, row, 5, 5, b"x" * size) for row, size in enumerate(sizes, start=1)]
    await opened.write(Changes(insert=rows, counts=[Counts(id=number, name=f"s{number}") for number in (1, 2, 3)]))


async def test_a_page_of_some_streams_has_only_theirs(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "outbox.db") as opened:
        await filled(opened, *[1] * 12)
        page, is_end = await opened.page(after=3, streams=[1, 3], most=3)
        assert ([row[0] for row in page], is_end) == ([5, 6, 8], False)
        page, is_end = await opened.page(after=8, streams=[1, 3], most=30)
        assert ([row[0] for row in page], is_end) == ([9, 11, 12], True)


async def test_a_page_is_bounded_in_bytes_whatever_the_other_rows_are_like(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "outbox.db") as opened:
        await filled(opened, *[1] * 900, *[5_000] * 900)
        page, is_end = await opened.page(after=0, streams=None, size=10_000)
        assert (len(page), is_end) == (902, False)
        page, is_end = await opened.page(after=1000, streams=None, size=10_000)
        assert (len(page), is_end) == (2, False)


async def test_a_page_that_was_cancelled_leaves_no_old_snapshot_behind(tmp_path: Path) -> None:
    async with Database.open(tmp_path / "outbox.db") as opened:
        await filled(opened, *[10] * 2000)
        for _ in range(20):
            task = asyncio.get_running_loop().create_task(opened.page(after=0, streams=None))
            await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await opened.write(Changes(delete=list(range(1, 2001))))
        assert await opened.page(after=0, streams=None) == ([], True)

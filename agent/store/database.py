"""The outbox's file: schema, transactions, pages. The only door to aiosqlite."""

import itertools
import json
import sqlite3
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiosqlite

from agent.errors import StorageError
from agent.store.schema import APPLICATION_ID, MIGRATIONS
from agent.store.transaction import Changes, Counts, Row, transact

_READER_CACHE_KIB = 512
_BUSY_TIMEOUT = 60.0  # seconds that another program may hold the file's lock, such as a person with sqlite3


class Database:
    """One SQLite file in WAL mode, written by one connection and read by another, each with a thread of its own.

    synchronous=FULL: COMMIT returns after the WAL was synced (SQLite, "PRAGMA synchronous"). Every method raises
    StorageError.
    """

    def __init__(self, path: Path, writer: aiosqlite.Connection, reader: aiosqlite.Connection) -> None:
        self.path = path
        self._writer = writer
        self._reader = reader

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator["Database"]:
        """Open the file, make it where there is none, and bring an older schema up to date."""
        with _told(f"cannot open {path}"):
            async with aiosqlite.connect(path, isolation_level=None, timeout=_BUSY_TIMEOUT, factory=_Writer) as writer:
                await _prepare(writer, path)
                async with aiosqlite.connect(path, isolation_level=None) as reader:
                    await reader.execute(f"PRAGMA cache_size = -{_READER_CACHE_KIB}")
                    await reader.execute("PRAGMA query_only = ON")
                    yield cls(path, writer, reader)

    async def begin_epoch(self, *, boot_id: str, started_ts: int) -> int:
        """Raise the epoch by one, make it durable, and return it."""
        with _told(f"cannot write {self.path}"):
            await self._writer.execute("BEGIN IMMEDIATE")
            await self._writer.execute(_FORGET_EPOCHS)
            await self._writer.execute("INSERT INTO epoch (boot_id, started_ts) VALUES (?, ?)", (boot_id, started_ts))
            epoch = await self._one("SELECT max(epoch) FROM epoch")
            await self._writer.execute("COMMIT")
        return epoch or 0

    async def confirm_all(self) -> None:
        """End the rows that only wait for a controller's confirmation: the broker had them."""
        with _told(f"cannot write {self.path}"):
            await self._writer.executescript(_CONFIRM_ALL)

    async def last_row(self) -> int:
        """Return the highest number that a row of the outbox ever had."""
        with _told(f"cannot read {self.path}"):
            return await self._one("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'") or 0

    async def counts(self) -> list[Counts]:
        """Return what is known of each stream."""
        with _told(f"cannot read {self.path}"):
            return [counted(row) for row in await self._reader.execute_fetchall(COUNTS_QUERY)]

    async def page(
        self, *, after: int, streams: Collection[int] | None, most: int = 1_000, size: int = 512 * 1024
    ) -> tuple[list[Row], bool]:
        """Return the next waiting rows after the row `after`, in their order, and whether there are no more.

        They are of these streams (None: of all), at most `most`, and no more once their tails have `size` bytes.
        """
        lengths, query = (_LENGTHS, _PAGE) if streams is None else (_LENGTHS_OF_SOME, _PAGE_OF_SOME)
        values = {"after": after, "limit": most, "streams": json.dumps(list(streams or ()))}
        with _told(f"cannot read {self.path}"):
            # Both at one go each: a cursor that a cancelled task left open would hold its snapshot for all that follow.
            found = list(await self._reader.execute_fetchall(lengths, values))
            if not found:
                return [], True
            reached = itertools.accumulate(length for _, length in found)
            last = next((n for n, total in enumerate(reached) if total >= size), len(found) - 1)
            rows = await self._reader.execute_fetchall(query, {**values, "last": found[last][0]})
        return list(rows), last + 1 == len(found) < most  # type: ignore[arg-type]

    async def within(self, stream: int, ranges: Sequence[Sequence[int]]) -> list[Row]:
        """Return the waiting rows of a stream that are in one of the ranges: epoch, first and last number."""
        values = {"stream": stream, "ranges": json.dumps(ranges), "limit": _MOST_WITHIN}
        with _told(f"cannot read {self.path}"):
            return list(await self._reader.execute_fetchall(_WITHIN, values))  # type: ignore[arg-type]

    async def rows(self, query: str, values: Iterable[object] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query, all of them: there must be a bound."""
        with _told(f"cannot read {self.path}"):
            return [tuple(row) for row in await self._reader.execute_fetchall(query, tuple(values))]

    async def write(self, changes: Changes) -> None:
        """Do all of the changes in one transaction; when this returns, they are on the disk."""
        with _told(f"cannot write {self.path}"):
            await self._writer.execute(_TRANSACTION, changes)

    async def _one(self, query: str) -> int | None:
        for row in await self._writer.execute_fetchall(query):
            return int(row[0])
        return None


COUNTS_QUERY = "SELECT id, name, accepted, delivered, quarantined, waiting, waiting_bytes, unconfirmed FROM stream"


def counted(row: Iterable[Any]) -> Counts:
    """Return a row of COUNTS_QUERY."""
    id_, name, accepted, delivered, quarantined, waiting, waiting_bytes, unconfirmed = row
    return Counts(
        id=id_,
        name=name,
        accepted=accepted,
        delivered=delivered,
        quarantined=quarantined,
        waiting=waiting,
        waiting_bytes=waiting_bytes,
        unconfirmed=unconfirmed,
    )


_FORGET_EPOCHS = (  # those of which no record waits
    "DELETE FROM epoch WHERE epoch < coalesce((SELECT epoch FROM outbox ORDER BY row LIMIT 1), 9223372036854775807)"
)
_CONFIRM_ALL = (
    "BEGIN IMMEDIATE;"
    " DELETE FROM outbox WHERE state IN (1, 3);"
    " UPDATE stream SET delivered = delivered + unconfirmed, unconfirmed = 0 WHERE unconfirmed > 0;"
    " COMMIT;"
)
_LENGTHS = "SELECT row, length(tail) FROM outbox WHERE row > :after AND state = 0 ORDER BY row LIMIT :limit"
_LENGTHS_OF_SOME = (
    "SELECT row, length(tail) FROM outbox"
    " WHERE row > :after AND state = 0 AND stream IN (SELECT value FROM json_each(:streams))"
    " ORDER BY row LIMIT :limit"
)
_PAGE = (
    "SELECT row, stream, epoch, seq, ts, taken_ms, tail FROM outbox"
    " WHERE row > :after AND row <= :last AND state = 0 ORDER BY row"
)
_PAGE_OF_SOME = (
    "SELECT row, stream, epoch, seq, ts, taken_ms, tail FROM outbox"
    " WHERE row > :after AND row <= :last AND state = 0 AND stream IN (SELECT value FROM json_each(:streams))"
    " ORDER BY row"
)
_MOST_WITHIN = 5_000
_WITHIN = (
    "SELECT row, stream, epoch, seq, ts, taken_ms, tail FROM outbox WHERE state = 0 AND stream = :stream AND EXISTS ("
    " SELECT 1 FROM json_each(:ranges) AS r WHERE epoch = json_extract(r.value, '$[0]')"
    " AND seq BETWEEN json_extract(r.value, '$[1]') AND json_extract(r.value, '$[2]')"
    ") ORDER BY row LIMIT :limit"
)


async def _prepare(writer: aiosqlite.Connection, path: Path) -> None:
    ((version,),) = await writer.execute_fetchall("PRAGMA user_version")
    ((application,),) = await writer.execute_fetchall("PRAGMA application_id")
    ((tables,),) = await writer.execute_fetchall("SELECT count(*) FROM sqlite_schema")
    if tables and application != APPLICATION_ID:
        raise StorageError(
            f"{path} is a database of another program (application id {application:#x});"
            " set outbox.path to another file"
        )
    if version > len(MIGRATIONS):
        raise StorageError(
            f"{path} has schema version {version}, and this roamd knows versions up to {len(MIGRATIONS)}:"
            " it was written by a newer roamd; install that one again, or set outbox.path to another file"
        )
    # Not before it is known to be ours: this writes to the file.
    await writer.execute("PRAGMA journal_mode = WAL")
    await writer.execute("PRAGMA synchronous = FULL")
    await writer.execute("PRAGMA foreign_keys = ON")
    for number, migration in enumerate(MIGRATIONS[version:], start=version + 1):
        marks = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number};"
        await writer.executescript(f"BEGIN IMMEDIATE; {migration}; {marks} COMMIT;")


_TRANSACTION = "a transaction"


class _Writer(sqlite3.Connection):
    """The writer's connection. A whole transaction goes to its thread as one call: each costs as much as some rows."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:  # noqa: ANN401  as sqlite3 has it
        if sql is not _TRANSACTION:
            return super().execute(sql, parameters)
        cursor = self.cursor()
        transact(cursor, parameters)
        return cursor


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Translate SQLite's errors."""
    try:
        yield
    except sqlite3.Error as exc:
        raise StorageError(f"{what}: {exc}") from exc

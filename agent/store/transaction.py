"""What one transaction does, and how it is done: in one call on the thread of the database."""

import itertools
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

Row = tuple[int, int, int, int, int, int, bytes]
"""A row of the table `outbox`: row, stream, epoch, seq, ts, taken_ms, tail."""


Statement = tuple[str, tuple[object, ...]]
"""SQL, and the values for its places."""


@dataclass(slots=True, kw_only=True)
class Counts:
    """A stream's row in the table `stream`: all its counts are of records, over the life of the file."""

    id: int
    name: str
    accepted: int = 0
    delivered: int = 0
    quarantined: int = 0
    waiting: int = 0
    waiting_bytes: int = 0
    unconfirmed: int = 0


@dataclass(slots=True, kw_only=True)
class Changes:
    """What one transaction does."""

    insert: list[Row] = field(default_factory=list)
    delete: list[int] = field(default_factory=list)
    quarantine: list[tuple[int, int, str, int]] = field(default_factory=list)
    """row, reason code, reason, Unix ms: the row moves from `outbox` to `quarantine`."""
    counts: list[Counts] = field(default_factory=list)
    states: list[tuple[int, int]] = field(default_factory=list)
    """The column `state` of rows, and their numbers."""
    statements: list[Statement] = field(default_factory=list)
    """What others than the outbox write, in its order."""

    def __bool__(self) -> bool:
        return any((self.insert, self.delete, self.quarantine, self.counts, self.states, self.statements))


def transact(cursor: sqlite3.Cursor, changes: Changes) -> None:
    """Do the changes, all or none. Raises sqlite3.Error."""
    cursor.execute("BEGIN IMMEDIATE")
    try:
        _change(cursor, changes)
        cursor.execute("COMMIT")
    except sqlite3.Error:
        if cursor.connection.in_transaction:
            cursor.execute("ROLLBACK")
        raise


def _change(cursor: sqlite3.Cursor, changes: Changes) -> None:
    for statement, values in changes.statements:
        cursor.execute(statement, values)
    cursor.executemany(_COUNT, [_values(counts) for counts in changes.counts])
    _insert(cursor, changes.insert)
    cursor.executemany(_MOVE, [(code, why, ts, row) for row, code, why, ts in changes.quarantine])
    gone = [row for row, *_ in changes.quarantine] + changes.delete
    cursor.executemany(_DELETE, spans(gone))
    cursor.executemany("UPDATE outbox SET state = ? WHERE row = ?", changes.states)


def _insert(cursor: sqlite3.Cursor, rows: Sequence[Row]) -> None:
    whole = len(rows) - len(rows) % _AT_ONCE
    for first in range(0, whole, _AT_ONCE):
        cursor.execute(_INSERT_MANY, tuple(itertools.chain.from_iterable(rows[first : first + _AT_ONCE])))
    cursor.executemany(_INSERT, rows[whole:])


def spans(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Iterate over the runs of numbers that follow each other, as first and last."""
    first = last = None
    for number in sorted(numbers):
        if last is None or number > last + 1:
            if first is not None and last is not None:
                yield first, last
            first = number
        last = number
    if first is not None and last is not None:
        yield first, last


_AT_ONCE = 16  # rows in one statement: half the work of as many statements
_INSERT = "INSERT INTO outbox (row, stream, epoch, seq, ts, taken_ms, tail) VALUES (?, ?, ?, ?, ?, ?, ?)"
_INSERT_MANY = _INSERT + ", (?, ?, ?, ?, ?, ?, ?)" * (_AT_ONCE - 1)
_DELETE = "DELETE FROM outbox WHERE row BETWEEN ? AND ?"
_MOVE = (
    "INSERT INTO quarantine (row, stream, epoch, seq, ts, taken_ms, tail, reason_code, reason, quarantined_ts)"
    " SELECT row, stream, epoch, seq, ts, taken_ms, tail, ?, ?, ? FROM outbox WHERE row = ?"
)
_COUNT = (
    "INSERT INTO stream (id, name, accepted, delivered, quarantined, waiting, waiting_bytes, unconfirmed)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
    " accepted = excluded.accepted, delivered = excluded.delivered, quarantined = excluded.quarantined,"
    " waiting = excluded.waiting, waiting_bytes = excluded.waiting_bytes, unconfirmed = excluded.unconfirmed"
)


def _values(c: Counts) -> tuple[int, str, int, int, int, int, int, int]:
    return c.id, c.name, c.accepted, c.delivered, c.quarantined, c.waiting, c.waiting_bytes, c.unconfirmed

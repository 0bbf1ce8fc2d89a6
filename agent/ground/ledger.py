"""What is known of all devices: messages in, each batch in one transaction.

Applying the same message twice changes nothing but `doubles` and `seen_ts`. Nothing that can change is kept in memory
between two transactions: several processes may share the file.
"""

import logging
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from agent.ground import ranges
from agent.ground.file import told, transaction
from agent.ground.ranges import Run
from agent.ground.reading import Entry, Health, Loss, Reading, Records, Request, Result, State, Status

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Arrived:
    """What a batch brings of one stream."""

    entries: dict[int, dict[int, Entry]] = field(default_factory=lambda: defaultdict(dict))
    """By epoch and seq."""
    doubles: int = 0
    conflicts: int = 0
    is_live: bool = False


class Ledger:
    """Writes what messages say. Every method raises StorageError."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._devices: dict[str, int] = {}
        self._streams: dict[tuple[str, str], int] = {}

    def apply(self, readings: Sequence[Reading], seen: Iterable[str], *, now: int) -> None:
        """Apply messages in their order; when this returns, they are on the disk.

        `seen` are the devices that have just been heard of, `now` is in Unix ms.
        """
        with told("cannot write the database"):
            try:
                with transaction(self._database):
                    self._apply(readings, seen, now)
            except BaseException:
                self._devices.clear()  # what was inserted is not there any more
                self._streams.clear()
                raise

    def _apply(self, readings: Sequence[Reading], seen: Iterable[str], now: int) -> None:
        arrived: dict[tuple[str, str], _Arrived] = defaultdict(_Arrived)
        for reading in readings:
            if isinstance(reading, Records):
                _gather(reading, arrived[reading.device, reading.stream])
            else:
                self._tell(reading, now)
        for (device, stream), batch in arrived.items():
            self._records(self._stream(device, stream), f"{device} {stream}", batch)
        for device in seen:
            self._run(
                "UPDATE device SET seen_ts = max(coalesce(seen_ts, 0), ?) WHERE id = ?", now, self._device(device)
            )

    def _tell(self, reading: Loss | Status | State | Health | Result | Request, now: int) -> None:
        match reading:
            case Loss():
                self._loss(reading)
            case Status():
                self._status(reading)
            case State():
                self._state(reading)
            case Health():
                self._run("UPDATE device SET health = ? WHERE id = ?", reading.body, self._device(reading.device))
            case Result():
                self._result(reading, now)
            case Request():
                self._applied(reading.device, reading.desired_version)

    def _run(self, statement: str, *values: object) -> None:
        self._database.execute(statement, values)

    # Names.

    def _device(self, name: str) -> int:
        if name not in self._devices:
            self._run("INSERT OR IGNORE INTO device (name) VALUES (?)", name)
            (self._devices[name],) = self._database.execute("SELECT id FROM device WHERE name = ?", (name,)).fetchone()
        return self._devices[name]

    def _stream(self, device: str, name: str) -> int:
        if (device, name) not in self._streams:
            values = (self._device(device), name)
            self._run("INSERT OR IGNORE INTO stream (device, name) VALUES (?, ?)", *values)
            found = self._database.execute("SELECT id FROM stream WHERE device = ? AND name = ?", values)
            (self._streams[device, name],) = found.fetchone()
        return self._streams[device, name]

    # Records.

    def _records(self, stream: int, name: str, batch: _Arrived) -> None:
        new: list[tuple[int, int, int, int, str]] = []
        for epoch, entries in batch.entries.items():
            for run in ranges.runs(entries):
                known = self._receive(stream, epoch, run)
                fresh = ranges.without([run], known)
                new += [
                    (stream, epoch, seq, entries[seq].ts, entries[seq].body)
                    for first, last in fresh
                    for seq in range(first, last + 1)
                ]
                for first, last in ranges.without([run], fresh):
                    batch.doubles += last - first + 1
                    batch.conflicts += self._conflicts(stream, [entries[seq] for seq in range(first, last + 1)])
        self._database.executemany("INSERT INTO record (stream, epoch, seq, ts, body) VALUES (?, ?, ?, ?, ?)", new)
        began = (new[0][1], new[0][2]) if new else (None, None)
        self._run(_COUNT, len(new), batch.doubles, batch.conflicts, batch.is_live, *began, stream)
        if batch.conflicts:
            log.warning(
                "%s: %d records have an identity that another record has: two agents with one device_id,"
                " or one whose state folder was lost",
                name,
                batch.conflicts,
            )

    def _receive(self, stream: int, epoch: int, run: Run) -> list[Run]:
        """Put a run of numbers into the table; return the runs there that overlapped or touched it, in order."""
        first, last = run
        known: list[Run] = []
        near = self._database.execute(_BELOW, (stream, epoch, last + 1))
        for found in near:
            if found[1] < first - 1:
                break
            known.insert(0, found)
        near.close()
        merged = ranges.hull(run, known)
        if known and known[0][0] == merged[0]:
            if known[0] != merged:
                self._run(_GROW, merged[1], stream, epoch, merged[0])
            gone = known[1:]
        else:
            gone = known
            self._run("INSERT INTO received (stream, epoch, first, last) VALUES (?, ?, ?, ?)", stream, epoch, *merged)
        self._database.executemany(
            "DELETE FROM received WHERE stream = ? AND epoch = ? AND first = ?",
            [(stream, epoch, start) for start, _ in gone],
        )
        return known

    def _conflicts(self, stream: int, doubles: Iterable[Entry]) -> int:
        """Count those that are not what is here under their numbers."""
        query = "SELECT 1 FROM record WHERE stream = ? AND epoch = ? AND seq = ? AND ts <> ?"
        return sum(
            self._database.execute(query, (stream, one.epoch, one.seq, one.ts)).fetchone() is not None
            for one in doubles
        )

    def _loss(self, loss: Loss) -> None:
        self._run(
            "INSERT OR IGNORE INTO loss (stream, epoch, first, last, reason, ts, count) VALUES (?, ?, ?, ?, ?, ?, ?)",
            self._stream(loss.device, loss.stream),
            *(loss.epoch, loss.first, loss.last, loss.reason, loss.ts, loss.count),
        )

    # Documents.

    def _status(self, status: Status) -> None:
        order = (status.epoch, status.connection, int(status.condition))
        self._run(_STATUS, status.body, *order, self._device(status.device), *order)

    def _state(self, state: State) -> None:
        values = (state.body, state.version, self._device(state.device), state.version)
        self._run(
            "UPDATE device SET state = ?, state_version = ? WHERE id = ? AND coalesce(state_version, -1) < ?", *values
        )
        self._applied(state.device, state.desired_version)

    def _applied(self, device: str, version: int) -> None:
        self._run(
            "UPDATE device SET applied_version = max(applied_version, ?) WHERE id = ?", version, self._device(device)
        )

    def _result(self, result: Result, now: int) -> None:
        values = (self._device(result.device), result.name, result.key, result.status, now, result.body)
        self._run(_RESULT, *values)


def _gather(reading: Records, into: _Arrived) -> None:
    into.is_live = into.is_live or reading.is_live
    for entry in reading.entries:
        same = into.entries[entry.epoch].setdefault(entry.seq, entry)
        if same is not entry:
            into.doubles += 1
            into.conflicts += same.ts != entry.ts


_BELOW = "SELECT first, last FROM received WHERE stream = ? AND epoch = ? AND first <= ? ORDER BY first DESC"
_GROW = "UPDATE received SET last = ? WHERE stream = ? AND epoch = ? AND first = ?"
_COUNT = (
    "UPDATE stream SET records = records + ?, doubles = doubles + ?, conflicts = conflicts + ?,"
    " is_live = max(is_live, ?), began_epoch = coalesce(began_epoch, ?), began_seq = coalesce(began_seq, ?)"
    " WHERE id = ?"
)
_STATUS = (
    "UPDATE device SET status = ?, status_epoch = ?, status_connection = ?, status_condition = ? WHERE id = ?"
    " AND (status_epoch IS NULL OR (status_epoch, status_connection, status_condition) < (?, ?, ?))"
)
_RESULT = (
    "INSERT INTO result (device, name, key, status, received_ts, body) VALUES (?, ?, ?, ?, ?, ?)"
    " ON CONFLICT DO UPDATE SET status = excluded.status, received_ts = excluded.received_ts, body = excluded.body"
    " WHERE status = 'accepted' AND excluded.status <> 'accepted'"
)

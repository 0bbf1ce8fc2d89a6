"""What is here, and what is not: the figures of devices and streams, and their records in order."""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from agent.ground import ranges
from agent.ground.file import told
from agent.ground.ranges import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaps:
    """The numbers of one stream and epoch that are not here, up to the highest that is.

    `explained` are in a `loss` report. `before` are those below the first record that ever came of the stream, for
    nobody may have listened then. The rest is `missing`, but where the stream is live, and then it is `dropped`.
    """

    epoch: int
    missing: tuple[Run, ...] = ()
    explained: tuple[Run, ...] = ()
    before: tuple[Run, ...] = ()
    dropped: tuple[Run, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFigures:
    """One stream's figures, in records. `lost` are those that the device has told of."""

    name: str
    is_live: bool
    records: int
    doubles: int
    conflicts: int
    lost: int
    newest: tuple[int, int] | None
    gaps: tuple[Gaps, ...]

    def count(self, kind: str) -> int:
        """Return how many numbers are `missing`, `explained`, `before` or `dropped`."""
        return sum(ranges.size(getattr(gaps, kind)) for gaps in self.gaps)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFigures:
    """One device's figures. `status`, `state` and `health` are its newest documents; `seen_ts` is in Unix ms."""

    name: str
    seen_ts: int | None
    status: dict[str, Any] | None
    state: dict[str, Any] | None
    health: dict[str, Any] | None
    desired_version: int
    applied_version: int
    streams: tuple[StreamFigures, ...]


def devices(database: sqlite3.Connection) -> list[DeviceFigures]:
    """Return the figures of all devices, by name. Raises StorageError."""
    with told("cannot read the database"):
        database.execute("BEGIN")  # one moment for all
        try:
            return [_device(database, row) for row in database.execute(_DEVICES).fetchall()]
        finally:
            database.execute("ROLLBACK")


def records(database: sqlite3.Connection, device: str, stream: str) -> Iterator[tuple[int, int, int, str]]:
    """Iterate over (epoch, seq, ts, body) of a stream in its order, also while it grows. Raises StorageError."""
    after = (-1, 0)
    while True:
        with told("cannot read the database"):
            page = database.execute(_RECORDS, (device, stream, *after)).fetchall()
        yield from page
        if not page:
            return
        after = page[-1][:2]


def _device(database: sqlite3.Connection, row: tuple[Any, ...]) -> DeviceFigures:
    key, name, seen_ts, status, state, health, desired_version, applied_version = row
    return DeviceFigures(
        name=name,
        seen_ts=seen_ts,
        status=json.loads(status or "null"),
        state=json.loads(state or "null"),
        health=json.loads(health or "null"),
        desired_version=desired_version,
        applied_version=applied_version,
        streams=tuple(_stream(database, one) for one in database.execute(_STREAMS, (key,)).fetchall()),
    )


def _stream(database: sqlite3.Connection, row: tuple[Any, ...]) -> StreamFigures:
    key, name, is_live, record_count, doubles, conflicts, *began = row
    here: dict[int, list[Run]] = {}
    for epoch, first, last in database.execute(_RECEIVED, (key,)):
        here.setdefault(epoch, []).append((first, last))
    losses: dict[int, list[Run]] = {}
    lost = 0
    for epoch, first, last, count in database.execute(_LOSSES, (key,)):
        losses.setdefault(epoch, []).append((first, last))
        lost += count
    found = [_gaps(epoch, here[epoch], losses.get(epoch, []), began, is_live=bool(is_live)) for epoch in sorted(here)]
    newest = max(here, default=None)
    return StreamFigures(
        name=name,
        is_live=bool(is_live),
        records=record_count,
        doubles=doubles,
        conflicts=conflicts,
        lost=lost,
        newest=None if newest is None else (newest, here[newest][-1][1]),
        gaps=tuple(gaps for gaps in found if gaps != Gaps(epoch=gaps.epoch)),
    )


def _gaps(epoch: int, here: list[Run], losses: list[Run], began: list[int], *, is_live: bool) -> Gaps:
    lacking = ranges.gaps(here)
    unexplained = ranges.without(lacking, losses)
    explained = ranges.without(lacking, unexplained)
    first_epoch, first_seq = began
    if epoch < first_epoch:
        earlier, rest = unexplained, []
    elif epoch == first_epoch and first_seq > 1:
        rest = ranges.without(unexplained, [(1, first_seq - 1)])
        earlier = ranges.without(unexplained, rest)
    else:
        earlier, rest = [], unexplained
    return Gaps(
        epoch=epoch,
        explained=tuple(explained),
        before=tuple(earlier),
        dropped=tuple(rest) if is_live else (),
        missing=() if is_live else tuple(rest),
    )


_DEVICES = "SELECT id, name, seen_ts, status, state, health, desired_version, applied_version FROM device ORDER BY name"
_STREAMS = (
    "SELECT id, name, is_live, records, doubles, conflicts, began_epoch, began_seq"
    " FROM stream WHERE device = ? ORDER BY name"
)
_RECEIVED = "SELECT epoch, first, last FROM received WHERE stream = ? ORDER BY epoch, first"
_LOSSES = "SELECT epoch, first, last, count FROM loss WHERE stream = ?"
_RECORDS = (
    "SELECT epoch, seq, ts, body FROM record WHERE stream ="
    " (SELECT stream.id FROM stream JOIN device ON device.id = stream.device WHERE device.name = ? AND stream.name = ?)"
    " AND (epoch, seq) > (?, ?) ORDER BY epoch, seq LIMIT 1000"
)

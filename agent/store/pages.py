"""Which rows the disk alone owns have still to be brought: a cursor for each priority."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from agent.model import Record
from agent.store.channels import Channels
from agent.store.transaction import Row

_LONG_AGO = float("-inf")  # an earlier start's monotonic times say nothing to this one


@dataclass(slots=True)
class _Cursor:
    """`after` is the row up to which all was brought; `moved_back`: while a page was being read."""

    after: int = 0
    moved_back: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What to read: the rows of these streams (None: of all) after the row `after`."""

    priority: int
    after: int
    streams: Collection[int] | None


class Pages:
    """The way through the rows, for each priority from the oldest to the newest.

    `held` are the rows that somebody has, `epoch` is this process's. `unfinished` holds the priorities of which there
    may be rows that were not brought yet.
    """

    def __init__(self, channels: Channels, *, held: set[int], epoch: int) -> None:
        self._channels = channels
        self._held = held
        self._epoch = epoch
        self._cursors: dict[int, _Cursor] = {}
        self._readings: list[set[int]] = []
        self.unfinished = {channel.stream.priority for channel in channels if channel.counts.waiting}

    def next(self, *, but: Collection[int]) -> Page | None:
        """Return what to read next, of the highest priority that has something; none of those in `but`."""
        priority = max(self.unfinished.difference(but), default=None)
        if priority is None:
            return None
        cursor = self._cursors.setdefault(priority, _Cursor())
        cursor.moved_back = False
        others = any(channel.waiting and channel.stream.priority != priority for channel in self._channels)
        streams = [channel.counts.id for channel in self._channels if channel.stream.priority == priority]
        return Page(priority=priority, after=cursor.after, streams=streams if others else None)

    def brought(self, page: Page, *, last: int | None, is_end: bool) -> None:
        """Note that a page was read up to the row `last`, None for nothing, and whether there was no more."""
        cursor = self._cursors[page.priority]
        if cursor.moved_back:
            return
        if last is not None:
            cursor.after = last
        if is_end:
            self.unfinished.discard(page.priority)

    def records(self, rows: Iterable[Row]) -> list[Record]:
        """Return those rows as records that the disk alone owned: from now on they are held."""
        records = []
        for row, number, epoch, seq, ts, taken_ms, tail in rows:
            if row not in self._held:
                self._held.add(row)
                taken = taken_ms / 1000 if epoch == self._epoch else _LONG_AGO
                stream = self._channels.numbered(number).stream
                records.append(Record(row=row, stream=stream, epoch=epoch, seq=seq, ts=ts, taken=taken, tail=tail))
        return records

    @contextmanager
    def reading(self) -> Iterator[set[int]]:
        """Gather the rows that end on the disk while rows are read: what was read may hold them still."""
        gone: set[int] = set()
        self._readings.append(gone)
        try:
            yield gone
        finally:
            self._readings.remove(gone)

    def ended(self, rows: Iterable[int]) -> None:
        """Note that rows have ended on the disk."""
        for gone in self._readings:
            gone.update(rows)

    def put_back(self, record: Record) -> None:
        """Have the record's row brought again."""
        cursor = self._cursors.setdefault(record.stream.priority, _Cursor())
        cursor.after = min(cursor.after, record.row - 1)
        cursor.moved_back = True
        self.unfinished.add(record.stream.priority)

"""The outbox: what was accepted and has not yet ended, in memory first, on the disk when it lasts.

A `stored` record is written only if it is still unacknowledged after `commit_interval`; a `synced` one is written
before anything else happens to it. A record is at any time owned by memory alone (`_stored`, `_synced`), by memory with
a row on the disk (`_held`), or by the disk alone, from where `page` brings it back. Who has got one from `next_fresh`
or `page` ends it in one of three ways: `settle`, `leave` or `quarantine`.
"""

import asyncio
from collections.abc import Collection, Iterable, Sequence

from agent import clock, encode, topics
from agent.lanes import Fresh, Room
from agent.model import Confirm, Delivery, Record, Sample, Stream
from agent.store import losses
from agent.store.channels import Channel, Channels
from agent.store.commit import Commit
from agent.store.database import Database
from agent.store.live import Live
from agent.store.memory import Memory
from agent.store.pages import Pages
from agent.store.promises import Promises
from agent.store.transaction import Counts
from agent.store.unconfirmed import Unconfirmed

_MOST_FRESH = 10_000
_MOST_FRESH_BYTES = 8 * 1024 * 1024
_MOST_SETTLED = 2_000
_LONG_AGO = float("-inf")  # an earlier start's monotonic times say nothing to this one
_DEFAULT = Stream(name="default")


class Outbox:
    """Accepts samples, gives each its identity, and keeps them until they are delivered.

    `news` is set when a lane has got something to send, `stir` when `next_commit` has changed. Nothing here waits but
    `room` and `page`; the flow `agent.store.committer.commit` moves records to the disk.
    """

    def __init__(
        self,
        database: Database,
        *,
        device_id: str,
        epoch: int,
        last_row: int,
        counts: Iterable[Counts],
        streams: Iterable[Stream],
        commit_interval: float,
        fresh_for: float,
        default: Stream = _DEFAULT,
        confirm: Confirm = Confirm.BROKER,
    ) -> None:
        self.epoch = epoch
        self.news = asyncio.Event()
        self.stir = asyncio.Event()
        self.empty = asyncio.Event()
        self._database = database
        self._device_id = device_id
        self._row = last_row
        self._channels = Channels(streams, counts, default=default)
        self._held: set[int] = set()
        self._pages = Pages(self._channels, held=self._held, epoch=epoch)
        self._unconfirmed = Unconfirmed(database, self._channels) if confirm is Confirm.CONTROLLER else None
        self._interval = min(commit_interval, fresh_for)
        self._fresh = Fresh(fresh_for)
        self._live = Live(self._channels, self._fresh.is_fresh)
        self._stored: dict[int, Record] = {}
        self._synced: dict[int, Record] = {}
        self._memory = Memory()
        self._writing: dict[int, Record] = {}
        self._overdue: list[Record] = []
        self._settled: list[Record] = []
        self._refused: list[tuple[Record, int, str]] = []
        self._ended_since: float | None = None
        self._promises = Promises()
        self._swept_at = _LONG_AGO
        self._dirty: dict[str, Channel] = {}
        self._waiting = sum(channel.counts.waiting for channel in self._channels)
        if not self._waiting:
            self.empty.set()

    # In: a sample is accepted.

    async def room(self) -> None:
        """Wait until memory has room for one more record."""
        await self._memory.room.wait()

    def accept(self, sample: Sample) -> Record:
        """Give the sample its identity and take it in; `promise` tells when its stream's promise holds.

        Where its stream's dead bands say that it tells nothing new, the record that told it is returned. Raises
        ValueError where a field has a reserved name, or where there are too many streams.
        """
        channel = self._channels[sample.stream]
        if channel.dead_band and not channel.dead_band.passes(sample.fields, sample.taken) and channel.last:
            return channel.last
        stream = channel.stream
        seq = channel.seq + 1
        event_id = None
        if not topics.is_telemetry(stream.name):
            event_id = f"{self._device_id}-{stream.name.removeprefix(topics.EVENT)}-{self.epoch}-{seq}"
        tail = encode.tail(sample.fields, event_id=event_id)
        channel.seq = seq
        self._row += 1
        record = Record(
            row=self._row,
            stream=stream,
            epoch=self.epoch,
            seq=seq,
            ts=sample.ts,
            taken=sample.taken,
            tail=tail,
        )
        if channel.dead_band:
            channel.last = record
        self._take_in(channel, record)
        return record

    def accept_document(self, stream: str, text: bytes, *, ts: int, now: float) -> Record:
        """Take in a document of the agent's own, JSON text, which is `synced` and has no identity."""
        channel = self._channels[stream]
        self._row += 1
        row, epoch = self._row, self.epoch
        record = Record(row=row, stream=channel.stream, epoch=epoch, seq=0, ts=ts, taken=now, tail=text)
        self._take_in(channel, record)
        return record

    def _take_in(self, channel: Channel, record: Record) -> None:
        name = channel.stream.name
        channel.counts.accepted += 1
        self._dirty[name] = channel
        if channel.stream.delivery is Delivery.LIVE:
            self._live.push(record)
            self.news.set()
            return
        channel.unwritten += 1
        self._waiting += 1
        self.empty.clear()
        if channel.stream.delivery is Delivery.SYNCED:
            self._synced[record.row] = record
            self.stir.set()
        else:
            if not self._stored:
                self.stir.set()
            self._stored[record.row] = record
            self._fresh.push(record)
            self.news.set()
        if self._memory.add(len(record.tail)):
            self.stir.set()

    def promise(self, record: Record) -> asyncio.Future[None] | None:
        """Return what is done once the record is on the disk or acknowledged; None where nothing is to be waited for.

        Whoever waits for it must not cancel it: others may wait too.
        """
        row = record.row
        if row not in self._stored and row not in self._synced and row not in self._writing:
            return None
        return self._promises.of(row)

    # Out: the lanes.

    def next_live(self, now: float) -> Record | None:
        """Return the newest record of a `live` stream, and forget it; those that are not fresh any more are dropped."""
        return self._live.next(now)

    def next_fresh(self, now: float, room: Room) -> list[Record]:
        """Return what the fresh lane sends next in one PUBLISH: the records are the caller's until it ends them."""
        return self._fresh.take(now, room)

    def has_fresh(self, now: float) -> bool:
        """Tell whether the fresh lane has anything to send now."""
        return self._fresh.is_ready(now)

    def fresh_at(self) -> float | None:
        """Return the monotonic time at which an incomplete batch goes as it is; None without any."""
        return self._fresh.ready_at()

    def is_stale(self, record: Record, now: float) -> bool:
        """Tell whether the record is too old to go as a fresh one."""
        return not self._fresh.is_fresh(record, now)

    @property
    def unpaged(self) -> Collection[int]:
        """The priorities of which `page` may have something to bring."""
        return self._pages.unfinished

    async def page(self, *, but: Collection[int] = ()) -> list[Record]:
        """Return the next records that the disk alone owns, oldest first: they are the caller's until it ends them.

        They are of the highest priority that has some, those in `but` left out. Raises StorageError.
        """
        page = self._pages.next(but=but)
        if page is None:
            return []
        with self._pages.reading() as freed:
            rows, is_end = await self._database.page(after=page.after, streams=page.streams)
        self._pages.brought(page, last=rows[-1][0] if rows else None, is_end=is_end)
        return self._pages.records(row for row in rows if row[0] not in freed)

    async def confirm(self, stream: str, ranges: Sequence[Sequence[int]]) -> None:
        """End what waits on the disk of a stream and is in these ranges: the controller has it. Raises StorageError.

        Where the controller confirms, what it was asked for and is not in them is sent again.
        """
        if stream not in self._channels:
            return
        with self._pages.reading() as freed:
            rows = await self._database.within(self._channels[stream].counts.id, ranges)
        self._settle(self._pages.records(row for row in rows if row[0] not in freed))
        if self._unconfirmed is not None:
            if lacking := await self._unconfirmed.answered(stream, ranges):
                self._waiting += lacking
                self.empty.clear()
            self._note_end()

    def write_early(self) -> None:
        """Have all that memory alone holds written at once."""
        if self._memory.hurry():
            self.stir.set()

    def settle(self, records: Iterable[Record]) -> None:
        """End records that the server has taken over; where the controller confirms, they stay until it has."""
        self._settle(records if self._unconfirmed is None else self._keep(self._unconfirmed, records))

    def _keep(self, unconfirmed: Unconfirmed, records: Iterable[Record]) -> list[Record]:
        """Keep records until they are confirmed; return the others, of which nobody says so."""
        others = []
        for record in records:
            row, channel = record.row, self._channels[record.stream.name]
            is_on_disk = row in self._held
            if record.seq == 0 or not (is_on_disk or row in self._stored or row in self._synced):
                others.append(record)
                continue
            channel.sent = max(channel.sent, (record.epoch, record.seq))
            unconfirmed.keep(record, is_on_disk=is_on_disk)
            self._promises.hold(row)
            self._note_end()
            self._count_ends(1)
        return others

    def _settle(self, records: Iterable[Record]) -> None:
        channel: Channel | None = None
        ended = unwritten = size = 0
        for record in records:
            if channel is None or channel.stream is not record.stream:
                channel = self._channels[record.stream.name]
                self._dirty[record.stream.name] = channel
            channel.counts.delivered += 1
            channel.sent = max(channel.sent, (record.epoch, record.seq))
            row = record.row
            if self._stored.pop(row, None) or self._synced.pop(row, None):
                channel.unwritten -= 1
                unwritten += 1
                size += len(record.tail)
            elif row in self._held:
                self._settled.append(record)
            else:
                continue  # it was live
            ended += 1
            self._promises.hold(row)
        if ended > unwritten:
            self._note_end()
        self._memory.remove(unwritten, size)
        self._count_ends(ended)

    def drop(self, record: Record) -> None:
        """End a `live` record that cannot be sent."""
        self._live.drop(record)

    def leave(self, records: Sequence[Record], now: float) -> None:
        """Give records back that could not be delivered: to the fresh lane if they still belong there, else later."""
        self._fresh.put_back([record for record in records if self._fresh.is_fresh(record, now)])
        if stale := [record for record in records if not self._fresh.is_fresh(record, now)]:
            # Older ones that grew old in the lane must not come after these.
            overdue = [*self._overdue, *self._sweep(now), *stale]
            self._overdue = []
            self._let_go(sorted(overdue, key=lambda record: record.row))
        self.news.set()

    def quarantine(self, record: Record, *, reason_code: int, reason: str) -> None:
        """End a record that the server refused for good: it is kept apart, and told as lost."""
        self._refused.append((record, reason_code, reason))
        self._note_end()
        self._count_ends(1)

    # To the disk: one transaction at a time, driven by the flow `commit`.

    def next_commit(self, now: float) -> float | None:
        """Return the monotonic time at which `plan` has something to do; None: not before `stir` is set."""
        if self._synced or len(self._settled) >= _MOST_SETTLED:
            return now
        times = [] if (due_at := self._memory.due_at()) is None else [due_at]
        if self._stored:
            times.append(next(iter(self._stored.values())).taken + self._interval)
        if self._ended_since is not None:
            times.append(self._ended_since + self._interval)
        if (stale_at := self._fresh.stale_at()) is not None:
            times.append(max(stale_at, self._swept_at + self._interval))
        return min(times, default=None)

    def plan(self, now: float, *, everything: bool = False) -> Commit:
        """Return what is due to be written; `everything`, because the agent stops. Follow it by `committed`."""
        commit = Commit()
        self._overdue += self._sweep(now)
        self._tell_losses(now)
        due = list(self._synced.values())
        oldest = next(iter(self._stored.values()), None)
        # Once one has waited for its time, all go with it: the others would need a transaction each.
        if oldest and (everything or self._memory.is_due(now) or now - oldest.taken >= self._interval):
            due += self._stored.values()
        for record in due:
            self._insert(commit, self._channel(record), record)
        for record, code, reason in self._refused:
            if record.row in self._stored or record.row in self._synced:
                self._insert(commit, self._channel(record), record)
            commit.quarantine(self._channel(record), record, code, reason)
        for record in self._settled:
            commit.delete(self._channel(record), record)
        if self._unconfirmed is not None:
            self._dirty.update((channel.stream.name, channel) for channel in self._unconfirmed.plan(commit))
        self._refused, self._settled, self._ended_since = [], [], None
        if commit.changes or everything:
            commit.changes.counts = [channel.persisted() for channel in self._dirty.values()]
            self._dirty = {}
        self._writing = {record.row: record for record in commit.written}
        return commit

    def committed(self, commit: Commit) -> None:
        """Note that the transaction is on the disk."""
        self._writing = {}
        if self._unconfirmed is not None:
            self._overdue += self._unconfirmed.committed(commit)
        self._held.difference_update(commit.ended)
        self._pages.ended(commit.ended)
        for record in commit.written:
            self._promises.hold(record.row)
            if record.stream.delivery is Delivery.SYNCED:
                self._fresh.push(record)
                self.news.set()
        overdue, self._overdue = self._overdue, []
        self._let_go(sorted(overdue, key=lambda record: record.row))

    def _sweep(self, now: float) -> list[Record]:
        self._swept_at = now
        return self._fresh.take_stale(now, keep=_MOST_FRESH, keep_bytes=_MOST_FRESH_BYTES)

    def _insert(self, commit: Commit, channel: Channel, record: Record) -> None:
        if self._stored.pop(record.row, None) or self._synced.pop(record.row, None):
            channel.unwritten -= 1
            self._memory.remove(1, len(record.tail))
        self._held.add(record.row)
        commit.insert(channel, record)
        if self._unconfirmed is not None:
            self._unconfirmed.inserted(record)

    def _channel(self, record: Record) -> Channel:
        """Return the record's stream, whose counts are about to change."""
        channel = self._channels[record.stream.name]
        self._dirty[record.stream.name] = channel
        return channel

    def _tell_losses(self, now: float) -> None:
        ts = clock.unix_ms()
        for tail in losses.reports((record for record, *_ in self._refused), reason="rejected", ts=ts):
            self.accept_document(topics.LOSS, tail, ts=ts, now=now)

    # What it is made of.

    def channels(self) -> Channels:
        """Return every stream that is known, with its counts."""
        return self._channels

    @property
    def waiting(self) -> int:
        """Records that were accepted and have not ended; `empty` is set while there are none."""
        return self._waiting

    def _let_go(self, records: Iterable[Record]) -> None:
        for record in records:
            if record.row in self._stored or record.row in self._writing:
                self._overdue.append(record)
                continue
            self._held.discard(record.row)
            self._pages.put_back(record)
            self.news.set()

    def _count_ends(self, records: int) -> None:
        self._waiting -= records
        if not self._waiting:
            self.empty.set()

    def _note_end(self) -> None:
        if self._ended_since is None or len(self._settled) >= _MOST_SETTLED:
            self._ended_since = self._ended_since or clock.monotonic()
            self.stir.set()

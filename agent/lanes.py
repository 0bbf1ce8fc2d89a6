"""Which record goes next: the fresh lane, and the shares of the window. Pure: no I/O, no clock, no asyncio."""

import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from agent.model import Message, Record, Stream
from agent.pace import Pace

_KEPT_FOR_FRESH = 0.2
"""The part of the window that the backlog leaves free, so that a fresh record finds a place at once."""

PACKET_IDS = range(1, 60_001)
"""Packet identifiers of records; the ones above belong to the session's own packets."""

_OLDEST_EACH = 8
_ALWAYS = float("-inf")


class Lane(IntEnum):
    """The two ways to the broker (contract, section 4): indexes, for each record is counted by its lane."""

    FRESH = 1  # not 0: a lane is true
    BACKLOG = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How much one PUBLISH may hold: records, and bytes of their tails with `each` for what a record costs beyond."""

    records: int
    size: int
    each: int = 64


def _taken(queue: deque[Record], room: Room) -> list[Record]:
    """Remove and return as many records from the front as there is room for, but one at least."""
    taken = [queue.popleft()]
    left = room.size - room.each - len(taken[0].tail)
    while queue and len(taken) < room.records and left >= room.each + len(queue[0].tail):
        left -= room.each + len(queue[0].tail)
        taken.append(queue.popleft())
    return taken


class _Level:
    """The fresh records of one priority: those that go alone in one queue, those that go in batches by stream."""

    __slots__ = ("alone", "batches")

    def __init__(self) -> None:
        self.alone: deque[Record] = deque()
        self.batches: dict[str, deque[Record]] = {}

    def queue(self, stream: Stream) -> deque[Record]:
        if stream.batch == 1:
            return self.alone
        queue = self.batches.get(stream.name)
        if queue is None:
            queue = self.batches[stream.name] = deque()
        return queue

    def queues(self) -> Iterator[deque[Record]]:
        yield self.alone
        yield from self.batches.values()

    def next(self, now: float) -> deque[Record] | None:
        """Return the queue with the oldest record of those that are ready."""
        if not self.batches:
            return self.alone or None
        ready = [queue for queue in self.queues() if queue and _ready_at(queue) <= now]
        return min(ready, key=lambda queue: queue[0].row, default=None)


def _ready_at(queue: deque[Record]) -> float:
    stream = queue[0].stream
    return _ALWAYS if len(queue) >= stream.batch else queue[0].taken + stream.batch_for


class Fresh:
    """Records younger than `fresh_for` seconds: higher priority first, each priority in the order of acceptance."""

    def __init__(self, fresh_for: float) -> None:
        self._fresh_for = fresh_for
        self._levels: dict[int, _Level] = {}
        self._stale: list[Record] = []
        self._count = 0
        self._bytes = 0
        self._batches = False

    def __len__(self) -> int:
        return self._count

    def push(self, record: Record) -> None:
        """Take a record in behind those of its priority."""
        self._queue(record.stream).append(record)
        self._count += 1
        self._bytes += len(record.tail)

    def put_back(self, records: Sequence[Record]) -> None:
        """Take records in again in front of the others, for the first time they went out was in vain."""
        for record in reversed(records):
            self._queue(record.stream).appendleft(record)
            self._bytes += len(record.tail)
        self._count += len(records)

    def take(self, now: float, room: Room) -> list[Record]:
        """Remove and return what goes next in one PUBLISH; nothing if no record or batch is ready.

        Records that are too old by now are set aside for `take_stale`.
        """
        for level in self._levels.values():
            while queue := level.next(now):
                if not self.is_fresh(queue[0], now):
                    self._stale.append(self._out(queue))
                    continue
                if queue is level.alone:
                    return [self._out(queue)]
                most = min(queue[0].stream.batch, room.records)
                taken = _taken(queue, Room(records=most, size=room.size, each=room.each))
                self._count -= len(taken)
                self._bytes -= sum(len(record.tail) for record in taken)
                return taken
        return []

    def is_ready(self, now: float) -> bool:
        """Tell whether `take` would return anything, or set anything aside."""
        if not self._batches:
            return self._count > 0
        return any(level.next(now) for level in self._levels.values())

    def ready_at(self) -> float | None:
        """Return the monotonic time at which the first incomplete batch goes as it is; None without any."""
        if not self._batches:
            return None
        times = [_ready_at(queue) for level in self._levels.values() for queue in level.batches.values() if queue]
        return min(times, default=None)

    def take_stale(self, now: float, *, keep: int, keep_bytes: int) -> list[Record]:
        """Remove and return, in order of acceptance, those that are too old, and the oldest beyond what to keep."""
        stale, self._stale = self._stale, []
        for level in reversed(self._levels.values()):
            for queue in level.queues():
                while queue and (self._count > keep or self._bytes > keep_bytes or not self.is_fresh(queue[0], now)):
                    stale.append(self._out(queue))
        stale.sort(key=lambda record: record.row)
        return stale

    def stale_at(self) -> float | None:
        """Return the monotonic time at which the first record will be too old; None without records."""
        if self._stale:
            return _ALWAYS
        heads = [queue[0].taken for level in self._levels.values() for queue in level.queues() if queue]
        return min(heads) + self._fresh_for if heads else None

    def is_fresh(self, record: Record, now: float) -> bool:
        """Tell whether the record is younger than `fresh_for` at the monotonic time `now`."""
        return now - record.taken < self._fresh_for

    def _out(self, queue: deque[Record]) -> Record:
        record = queue.popleft()
        self._count -= 1
        self._bytes -= len(record.tail)
        return record

    def _queue(self, stream: Stream) -> deque[Record]:
        level = self._levels.get(stream.priority)
        if level is None:
            self._levels[stream.priority] = level = _Level()
            self._levels = dict(sorted(self._levels.items(), reverse=True))
        self._batches = self._batches or stream.batch > 1
        return level.queue(stream)


@dataclass(slots=True, kw_only=True, eq=False)
class Parcel:
    """One PUBLISH and the records in it.

    `refusals` counts the answers that asked to try again later. `is_released`: the server has answered PUBREC, so what
    it is owed is PUBREL and not the message (MQTT 5 section 4.3.3).
    """

    packet_id: int
    lane: Lane
    message: Message
    records: Sequence[Record]
    size: int
    dup: bool = False
    is_released: bool = False
    refusals: int = 0


class Window:
    """The parcels that await their acknowledgement, and what may be sent next.

    `limit` is the number of unacknowledged PUBLISH packets (at most the server's Receive Maximum, MQTT 5 section
    4.9), `pace` tells how many bytes may be in them; a lane's only parcel may be larger. `backlog_share` is the part of
    the window that the backlog gets at least while both lanes have something to send.
    """

    def __init__(self, *, limit: int, backlog_share: float) -> None:
        self.limit = limit
        self.pace = Pace()
        self._share = backlog_share
        self._credit = 0.0
        self._parcels: dict[int, Parcel] = {}
        self._in_lane = [0, 0, 0]
        self._bytes = [0, 0, 0]

    def __len__(self) -> int:
        return len(self._parcels)

    def __contains__(self, packet_id: int) -> bool:
        return packet_id in self._parcels

    @property
    def has_room(self) -> bool:
        """Whether any parcel may be sent now."""
        return len(self._parcels) < self.limit and self._has_bytes(sum(self._bytes), of=1.0)

    def next_lane(self, *, fresh: bool, backlog: bool) -> Lane | None:
        """Return the lane that may send the next parcel; the arguments tell which of them have one."""
        if len(self._parcels) >= self.limit:
            return None
        if self.limit == 1:
            return self._by_turns(fresh=fresh, backlog=backlog)
        reserved = min(math.ceil(self._share * self.limit), self.limit - 1) if backlog else 0
        if (
            fresh
            and self._in_lane[Lane.FRESH] < self.limit - reserved
            and self._has_bytes(self._bytes[Lane.FRESH], of=1.0 - self._share if backlog else 1.0)
        ):
            return Lane.FRESH
        most = max(reserved, self.limit - math.ceil(_KEPT_FOR_FRESH * self.limit))
        if (
            backlog
            and self._in_lane[Lane.BACKLOG] < most
            and self._has_bytes(self._bytes[Lane.BACKLOG], of=max(self._share, 1.0 - _KEPT_FOR_FRESH))
        ):
            return Lane.BACKLOG
        return None

    def _has_bytes(self, used: int, *, of: float) -> bool:
        """Tell whether `used` bytes leave something of this part of the pace; a lane that is empty always has room."""
        if used == 0 or used < of * self.pace.limit:
            return True
        self.pace.reached()
        return False

    def _by_turns(self, *, fresh: bool, backlog: bool) -> Lane | None:
        if not (fresh or backlog):
            return None
        if fresh and backlog:
            self._credit += self._share
            if self._credit < 1.0:
                return Lane.FRESH
            self._credit -= 1.0
            return Lane.BACKLOG
        return Lane.FRESH if fresh else Lane.BACKLOG

    def free_packet_id(self, row: int, taken: Iterable[int] = ()) -> int:
        """Return the packet identifier of a parcel that begins with `row`: derived from it, and not in flight."""
        wanted = 1 + (row - 1) % len(PACKET_IDS)
        while wanted in self._parcels or wanted in taken:
            wanted = 1 + wanted % len(PACKET_IDS)
        return wanted

    def add(self, parcel: Parcel, now: float) -> None:
        """Count a parcel that is being sent."""
        self._parcels[parcel.packet_id] = parcel
        self._in_lane[parcel.lane] += 1
        self._bytes[parcel.lane] += parcel.size
        if self.pace.timed is None:
            self.pace.sent(parcel.packet_id, now)

    def get(self, packet_id: int) -> Parcel | None:
        """Return the parcel that the identifier belongs to; None if none does."""
        return self._parcels.get(packet_id)

    def parcels(self) -> list[Parcel]:
        """Return what is in flight, in the order in which it was sent."""
        return list(self._parcels.values())

    def remove(self, packet_id: int) -> Parcel | None:
        """Return the parcel that the identifier belongs to and count it no more; None if none does."""
        parcel = self._parcels.pop(packet_id, None)
        if parcel is not None:
            self._in_lane[parcel.lane] -= 1
            self._bytes[parcel.lane] -= parcel.size
        return parcel

    def clear(self) -> list[Parcel]:
        """Empty the window and return its parcels in the order in which they were sent."""
        parcels = self.parcels()
        for parcel in parcels:
            self.remove(parcel.packet_id)
        self.pace = Pace()
        return parcels


class Queues:
    """Records of the backlog by stream, each in its order.

    The stream of the highest priority comes first, and of those the one with the oldest record; but one turn in
    `_OLDEST_EACH` is the oldest record's, whatever its priority, so that nothing waits for ever.
    """

    def __init__(self) -> None:
        self._by_stream: dict[str, deque[Record]] = {}
        self._of_priority: Counter[int] = Counter()
        self._turn = 0

    def __len__(self) -> int:
        return self._of_priority.total()

    def __bool__(self) -> bool:
        return bool(self._by_stream)

    def of_priority(self, priority: int) -> int:
        """Return how many records of this priority there are."""
        return self._of_priority[priority]

    def extend(self, records: Iterable[Record]) -> None:
        """Take records in; those that were given back may be older than what is there, and go before it."""
        disordered = set()
        for record in records:
            name = record.stream.name
            queue = self._by_stream.setdefault(name, deque())
            self._of_priority[record.stream.priority] += 1
            if queue and record.row < queue[-1].row:
                disordered.add(name)
            queue.append(record)
        for name in disordered:
            self._by_stream[name] = deque(sorted(self._by_stream[name], key=lambda record: record.row))

    def next_stream(self) -> Stream:
        """Return the stream whose turn it is. There must be one."""
        heads = (queue[0] for queue in self._by_stream.values())
        self._turn = (self._turn + 1) % _OLDEST_EACH
        if self._turn == 0:
            return min(heads, key=lambda record: record.row).stream
        return min(heads, key=lambda record: (-record.stream.priority, record.row)).stream

    def take(self, stream: Stream, room: Room) -> list[Record]:
        """Remove and return as many records of the stream as there is room for, but one at least."""
        queue = self._by_stream[stream.name]
        taken = _taken(queue, room)
        if not queue:
            del self._by_stream[stream.name]
        self._of_priority[stream.priority] -= len(taken)
        return taken

    def put_back(self, records: Sequence[Record]) -> None:
        """Take records of one stream in again, in front of the others."""
        stream = records[0].stream
        self._by_stream.setdefault(stream.name, deque()).extendleft(reversed(records))
        self._of_priority[stream.priority] += len(records)

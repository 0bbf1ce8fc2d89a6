"""Which record goes next: the fresh lane, and the shares of the window. Pure: no I/O, no clock, no asyncio."""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from agent.model import Message, Record

_KEPT_FOR_FRESH = 0.2
"""The part of the window that the backlog leaves free, so that a fresh record finds a place at once."""

_PACKET_IDS = 60_000
"""Packet identifiers of records are 1 to this; the ones above belong to the session's own packets."""


class Lane(Enum):
    """The two ways to the broker (contract, section 4)."""

    FRESH = "fresh"
    BACKLOG = "backlog"


class Fresh:
    """Records younger than `fresh_for` seconds: higher priority first, each priority in the order of acceptance."""

    def __init__(self, fresh_for: float) -> None:
        self._fresh_for = fresh_for
        self._queues: dict[int, deque[Record]] = {}
        self._stale: list[Record] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def push(self, record: Record) -> None:
        """Take a record in behind those of its priority."""
        self._queue(record.stream.priority).append(record)
        self._count += 1

    def put_back(self, records: Sequence[Record]) -> None:
        """Take records in again in front of the others, for the first time they went out was in vain."""
        for record in reversed(records):
            self._queue(record.stream.priority).appendleft(record)
        self._count += len(records)

    def pop(self, now: float) -> Record | None:
        """Return the next record, or None; those that are too old by now are set aside for `take_stale`."""
        for queue in self._queues.values():
            while queue:
                record = queue.popleft()
                self._count -= 1
                if self.is_fresh(record, now):
                    return record
                self._stale.append(record)
        return None

    def take_stale(self, now: float, *, keep: int) -> list[Record]:
        """Remove and return, in order of acceptance, those that are too old by now, and the oldest beyond `keep`."""
        stale, self._stale = self._stale, []
        for queue in reversed(self._queues.values()):
            while queue and (self._count > keep or not self.is_fresh(queue[0], now)):
                stale.append(queue.popleft())
                self._count -= 1
        stale.sort(key=lambda record: record.row)
        return stale

    def stale_at(self) -> float | None:
        """Return the monotonic time at which the first record will be too old; None without records."""
        heads = [queue[0].taken for queue in self._queues.values() if queue]
        return min(heads) + self._fresh_for if heads else None

    def is_fresh(self, record: Record, now: float) -> bool:
        """Tell whether the record is younger than `fresh_for` at the monotonic time `now`."""
        return now - record.taken < self._fresh_for

    def _queue(self, priority: int) -> deque[Record]:
        queue = self._queues.get(priority)
        if queue is None:
            self._queues[priority] = queue = deque()
            self._queues = dict(sorted(self._queues.items(), reverse=True))
        return queue


@dataclass(slots=True, kw_only=True, eq=False)
class Parcel:
    """One PUBLISH and the records in it. `refusals` counts the answers that asked to try again later."""

    packet_id: int
    lane: Lane
    message: Message
    records: Sequence[Record]
    size: int
    dup: bool = False
    refusals: int = 0


class Window:
    """The parcels that await their acknowledgement, and what may be sent next.

    `limit` is the number of unacknowledged PUBLISH packets (at most the server's Receive Maximum, MQTT 5 section
    4.9), `limit_bytes` the bytes in them; a single parcel may be larger. `backlog_share` is the part of the window
    that the backlog gets at least while both lanes have something to send.
    """

    def __init__(self, *, limit: int, limit_bytes: int, backlog_share: float) -> None:
        self.limit = limit
        self.limit_bytes = limit_bytes
        self._share = backlog_share
        self._credit = 0.0
        self._parcels: dict[int, Parcel] = {}
        self._in_lane = {Lane.FRESH: 0, Lane.BACKLOG: 0}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._parcels)

    def __contains__(self, packet_id: int) -> bool:
        return packet_id in self._parcels

    @property
    def has_room(self) -> bool:
        """Whether any parcel may be sent now."""
        return len(self._parcels) < self.limit and (self._bytes < self.limit_bytes or not self._parcels)

    def next_lane(self, *, fresh: bool, backlog: bool) -> Lane | None:
        """Return the lane that may send the next parcel; the arguments tell which of them have one."""
        if not self.has_room or not (fresh or backlog):
            return None
        if self.limit == 1:
            return self._by_turns(fresh=fresh, backlog=backlog)
        reserved = min(math.ceil(self._share * self.limit), self.limit - 1)
        if fresh and self._in_lane[Lane.FRESH] < self.limit - (reserved if backlog else 0):
            return Lane.FRESH
        most = max(reserved, self.limit - math.ceil(_KEPT_FOR_FRESH * self.limit))
        if backlog and self._in_lane[Lane.BACKLOG] < most:
            return Lane.BACKLOG
        return None

    def _by_turns(self, *, fresh: bool, backlog: bool) -> Lane:
        if fresh and backlog:
            self._credit += self._share
            if self._credit < 1.0:
                return Lane.FRESH
            self._credit -= 1.0
            return Lane.BACKLOG
        return Lane.FRESH if fresh else Lane.BACKLOG

    def free_packet_id(self, row: int, taken: Iterable[int] = ()) -> int:
        """Return the packet identifier of a parcel that begins with `row`: derived from it, and not in flight."""
        wanted = 1 + (row - 1) % _PACKET_IDS
        while wanted in self._parcels or wanted in taken:
            wanted = 1 + wanted % _PACKET_IDS
        return wanted

    def add(self, parcel: Parcel) -> None:
        """Count a parcel that is being sent."""
        self._parcels[parcel.packet_id] = parcel
        self._in_lane[parcel.lane] += 1
        self._bytes += parcel.size

    def remove(self, packet_id: int) -> Parcel | None:
        """Return the parcel that the identifier belongs to and count it no more; None if none does."""
        parcel = self._parcels.pop(packet_id, None)
        if parcel is not None:
            self._in_lane[parcel.lane] -= 1
            self._bytes -= parcel.size
        return parcel

    def clear(self) -> list[Parcel]:
        """Empty the window and return its parcels in the order in which they were sent."""
        parcels = list(self._parcels.values())
        for parcel in parcels:
            self.remove(parcel.packet_id)
        return parcels


class Queues:
    """Records of the backlog by stream, each in its order; the stream with the oldest record comes first."""

    def __init__(self) -> None:
        self._by_stream: dict[str, deque[Record]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def extend(self, records: Iterable[Record]) -> None:
        """Take records in, in the order of their rows."""
        for record in records:
            self._by_stream.setdefault(record.stream.name, deque()).append(record)
            self._count += 1

    @property
    def next_stream(self) -> str:
        """The stream whose turn it is. There must be one."""
        return min(self._by_stream, key=lambda stream: self._by_stream[stream][0].row)

    def take(self, stream: str, *, most: int, each: int, room: int) -> list[Record]:
        """Remove and return up to `most` records of the stream, as many as fit into `room` bytes, but one at least.

        `each` is what a record costs beyond its tail.
        """
        queue = self._by_stream[stream]
        taken = [queue.popleft()]
        room -= each + len(taken[0].tail)
        while queue and len(taken) < most and room >= each + len(queue[0].tail):
            taken.append(queue.popleft())
            room -= each + len(taken[-1].tail)
        if not queue:
            del self._by_stream[stream]
        self._count -= len(taken)
        return taken

    def put_back(self, records: Sequence[Record]) -> None:
        """Take records of one stream in again, in front of the others."""
        self._by_stream.setdefault(records[0].stream.name, deque()).extendleft(reversed(records))
        self._count += len(records)

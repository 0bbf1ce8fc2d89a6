"""The way out: from the outbox's lanes through the window to the server, and what its answers mean."""

import asyncio
import heapq
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from agent import clock, encode, reasons, topics
from agent.lanes import Lane, Parcel, Queues, Window
from agent.model import Limits, Message, Record
from agent.reasons import Verdict
from agent.topics import Topics

log = logging.getLogger(__name__)

BYTES_IN_FLIGHT = 256 * 1024
"""Unacknowledged bytes at most: a thin link must not be filled for longer than it takes to notice that it is dead."""
_BACKFILL_BYTES = 16 * 1024
_BACKFILL_RECORDS = 500
_LOW_WATER = 200
_MOST_POSTPONED = 1_000
_MOST_REFUSALS = 20
_LONGEST_POSTPONED = 300.0
_RECORD_OVERHEAD = 64


class Backlog(Protocol):
    """What delivery needs of the outbox."""

    news: asyncio.Event

    @property
    def has_fresh(self) -> bool: ...  # noqa: D102
    @property
    def all_paged(self) -> bool: ...  # noqa: D102
    def next_live(self, now: float) -> Record | None: ...  # noqa: D102
    def next_fresh(self, now: float) -> Record | None: ...  # noqa: D102
    async def page(self) -> list[Record]: ...  # noqa: D102
    def settle(self, records: Iterable[Record]) -> None: ...  # noqa: D102
    def leave(self, records: Sequence[Record], now: float) -> None: ...  # noqa: D102
    def quarantine(self, record: Record, *, reason_code: int, reason: str) -> None: ...  # noqa: D102


class Link(Protocol):
    """What delivery needs of a connection to the server."""

    limits: Limits

    @property
    def is_clear(self) -> bool: ...  # noqa: D102
    def listen(self, *, acknowledged: Callable[[int, int], None], cleared: Callable[[], None]) -> None: ...  # noqa: D102
    def size(self, message: Message) -> int: ...  # noqa: D102
    def send(self, parcels: Sequence[tuple[int, bool, Message]]) -> None: ...  # noqa: D102


class Delivery:
    """Delivers the outbox over one link after another. What was in flight when a link ended is kept for the next."""

    def __init__(self, backlog: Backlog, *, to: Topics, most_in_flight: int, backlog_share: float) -> None:
        self._backlog = backlog
        self._topics = to
        self._most_in_flight = most_in_flight
        self._window = Window(limit=1, limit_bytes=BYTES_IN_FLIGHT, backlog_share=backlog_share)
        self._queues = Queues()
        self._resend: deque[Parcel] = deque()
        self._postponed: list[tuple[float, int, Parcel]] = []
        self._again: deque[Parcel] = deque()
        self._order = itertools.count()
        self._paging = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """Parcels that are on their way or wait to be sent again."""
        return len(self._window) + len(self._resend)

    async def over(self, link: Link) -> None:
        """Deliver over this link until cancelled. Raises StorageError."""
        self._adopt(link.limits)
        link.listen(acknowledged=self._acknowledged, cleared=self._backlog.news.set)
        self._backlog.news.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._fetch(), name="pages of the backlog")
            while True:
                await self._backlog.news.wait()
                self._backlog.news.clear()
                self._send(link)
                # Everything that was accepted or acknowledged meanwhile goes into one write.
                await asyncio.sleep(0)

    # What the last link left.

    def _adopt(self, limits: Limits) -> None:
        """Take over what the last link left unacknowledged.

        MQTT 5 section 4.4: with the session still present it is sent again, with its packet identifiers and DUP; if the
        session is gone the packets are forgotten, and their records are free to go another way.
        """
        unanswered = [*self._window.clear(), *self._resend]
        self._resend.clear()
        if limits.session_present:
            self._resend.extend(unanswered)
        else:
            now = clock.monotonic()
            for parcel in unanswered:
                self._backlog.leave(parcel.records, now)
        self._window.limit = min(self._most_in_flight, limits.receive_maximum)

    # The plan.

    def _send(self, link: Link) -> None:
        now = clock.monotonic()
        batch: list[tuple[int, bool, Message]] = []
        if link.is_clear:
            while (record := self._backlog.next_live(now)) is not None:
                message = self._message([record], Lane.FRESH, link.limits)
                batch.append((0, False, message))
                self._backlog.settle([record])
            while link.limits.maximum_qos > 0 and (parcel := self._next(link, now)) is not None:
                self._window.add(parcel)
                batch.append((parcel.packet_id, parcel.dup, parcel.message))
        if batch:
            link.send(batch)
        if len(self._queues) < _LOW_WATER and not self._backlog.all_paged:
            self._paging.set()

    def _next(self, link: Link, now: float) -> Parcel | None:
        """Return the parcel to send next, or None: the window is full or the lanes are empty."""
        if self._resend:
            if not self._window.has_room:
                return None
            again = self._resend.popleft()
            again.dup = True
            return again
        while self._postponed and self._postponed[0][0] <= now:
            self._again.append(heapq.heappop(self._postponed)[2])
        if self._again:
            return self._repacked(self._again.popleft()) if self._window.has_room else None
        if len(self._postponed) >= _MOST_POSTPONED:
            return None
        while lane := self._window.next_lane(fresh=self._backlog.has_fresh, backlog=len(self._queues) > 0):
            records = self._take(lane, link.limits, now)
            if records and (parcel := self._packed(records, lane, link)) is not None:
                return parcel
        return None

    def _take(self, lane: Lane, limits: Limits, now: float) -> list[Record]:
        if lane is Lane.FRESH:
            record = self._backlog.next_fresh(now)
            return [] if record is None else [record]
        room = min(_BACKFILL_BYTES, (limits.maximum_packet_size or _BACKFILL_BYTES) // 2)
        stream = self._queues.next_stream
        most = _BACKFILL_RECORDS if topics.is_telemetry(stream) else 1
        return self._queues.take(stream, most=most, each=_RECORD_OVERHEAD, room=room)

    def _packed(self, records: list[Record], lane: Lane, link: Link) -> Parcel | None:
        """Return the records as one parcel; None where the server would not take a packet of this size."""
        message = self._message(records, lane, link.limits)
        size = link.size(message)
        most = link.limits.maximum_packet_size
        if most is not None and size > most:
            if len(records) > 1:
                self._queues.put_back(records[1:])
                return self._packed(records[:1], lane, link)
            why = f"{size} bytes are more than the broker's Maximum Packet Size of {most}"
            self._backlog.quarantine(records[0], reason_code=0x95, reason=why)
            log.error("%s %d/%d goes to quarantine: %s", records[0].stream.name, records[0].epoch, records[0].seq, why)
            return None
        return Parcel(
            packet_id=self._free_packet_id(records[0].row), lane=lane, message=message, records=records, size=size
        )

    def _repacked(self, parcel: Parcel) -> Parcel:
        parcel.packet_id = self._free_packet_id(parcel.records[0].row)
        parcel.dup = False
        return parcel

    def _free_packet_id(self, row: int) -> int:
        return self._window.free_packet_id(row, {parcel.packet_id for parcel in self._resend})

    def _message(self, records: Sequence[Record], lane: Lane, limits: Limits) -> Message:
        stream = records[0].stream
        if lane is Lane.FRESH or not topics.is_telemetry(stream.name):
            return Message(
                topic=self._topics.fresh(stream.name),
                payload=encode.record(records[0]),
                qos=min(stream.qos, limits.maximum_qos),
                retain=stream.retain and limits.retain_available,
            )
        return Message(topic=self._topics.backfill(stream.name), payload=encode.array(records), qos=1)

    # The answers.

    def _acknowledged(self, packet_id: int, reason_code: int) -> None:
        parcel = self._window.remove(packet_id)
        if parcel is None:
            log.warning("the broker acknowledged packet %d, which is not in flight", packet_id)
            return
        verdict = reasons.verdict(reason_code)
        if verdict is Verdict.DELIVERED:
            self._backlog.settle(parcel.records)
        elif verdict is Verdict.LATER and parcel.refusals < _MOST_REFUSALS:
            self._postpone(parcel, reason_code)
        else:
            self._refused(parcel, reason_code)
        self._backlog.news.set()

    def _postpone(self, parcel: Parcel, reason_code: int) -> None:
        wait = min(_LONGEST_POSTPONED, 2.0**parcel.refusals)
        parcel.refusals += 1
        due = clock.monotonic() + wait
        heapq.heappush(self._postponed, (due, next(self._order), parcel))
        asyncio.get_running_loop().call_at(due, self._backlog.news.set)
        log.warning(
            "the broker refused %s: %s; again in %.0f s",
            parcel.message.topic,
            reasons.describe(reason_code),
            wait,
        )

    def _refused(self, parcel: Parcel, reason_code: int) -> None:
        why = reasons.describe(reason_code)
        log.error("the broker refused %s for good: %s", parcel.message.topic, why)
        for record in parcel.records:
            self._backlog.quarantine(record, reason_code=reason_code, reason=why)

    # The backlog's pages.

    async def _fetch(self) -> None:
        while True:
            await self._paging.wait()
            self._paging.clear()
            if len(self._queues) < _LOW_WATER and not self._backlog.all_paged:
                self._queues.extend(await self._backlog.page())
                self._backlog.news.set()

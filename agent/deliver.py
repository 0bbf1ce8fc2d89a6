"""The way out: from the outbox's lanes through the window to the server, and what its answers mean."""

import asyncio
import heapq
import itertools
import logging
import math
import zlib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from agent import clock, encode, reasons, topics
from agent.lanes import Lane, Parcel, Queues, Room, Window
from agent.model import Limits, Message, Record
from agent.pace import Rate
from agent.reasons import Verdict
from agent.topics import Topics

log = logging.getLogger(__name__)

_ARRAY_BYTES = 16 * 1024
_LEAST_ARRAY_BYTES = 2 * 1024
_ARRAYS_IN_FLIGHT = 4
_COMPRESSES_TO = 4  # of JSON arrays, at least
_BACKFILL_RECORDS = 500
_LOW_WATER = 200
_MOST_POSTPONED = 1_000
_MOST_REFUSALS = 20
_LONGEST_POSTPONED = 300.0


class Backlog(Protocol):
    """What delivery needs of the outbox."""

    news: asyncio.Event

    @property
    def unpaged(self) -> Collection[int]: ...  # noqa: D102
    def next_live(self, now: float) -> Record | None: ...  # noqa: D102
    def next_fresh(self, now: float, room: Room) -> list[Record]: ...  # noqa: D102
    def has_fresh(self, now: float) -> bool: ...  # noqa: D102
    def fresh_at(self) -> float | None: ...  # noqa: D102
    async def page(self, *, but: Collection[int]) -> list[Record]: ...  # noqa: D102
    def settle(self, records: Iterable[Record]) -> None: ...  # noqa: D102
    def leave(self, records: Sequence[Record], now: float) -> None: ...  # noqa: D102
    def quarantine(self, record: Record, *, reason_code: int, reason: str) -> None: ...  # noqa: D102


class Link(Protocol):
    """What delivery needs of a connection to the server."""

    limits: Limits

    @property
    def is_clear(self) -> bool: ...  # noqa: D102
    def listen(  # noqa: D102
        self,
        *,
        acknowledged: Callable[[int, int], None],
        received: Callable[[int, int], None],
        cleared: Callable[[], None],
    ) -> None: ...
    def size(self, message: Message) -> int: ...  # noqa: D102
    def send(self, parcels: Sequence[tuple[int, bool, Message]]) -> None: ...  # noqa: D102
    def release(self, packet_id: int) -> None: ...  # noqa: D102
    def release_again(self, packet_id: int) -> None: ...  # noqa: D102
    def release_unknown(self, packet_id: int) -> None: ...  # noqa: D102


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How the backlog goes out.

    `share` is the part of the window that it gets at least beside fresh records; `rate` the bytes a second that it gets
    at most, 0 for no limit; `is_compressed` sends its arrays through zlib.
    """

    share: float
    rate: int = 0
    is_compressed: bool = False


class Delivery:
    """Delivers the outbox over one link after another. What was in flight when a link ended is kept for the next."""

    def __init__(self, backlog: Backlog, *, to: Topics, most_in_flight: int, way: Way) -> None:
        self._backlog = backlog
        self._topics = to
        self._most_in_flight = most_in_flight
        self._is_compressed = way.is_compressed
        self._rate = Rate(way.rate)
        self._window = Window(limit=1, backlog_share=way.share)
        self._queues = Queues()
        self._resend: deque[Parcel] = deque()
        self._postponed: list[tuple[float, int, Parcel]] = []
        self._again: deque[Parcel] = deque()
        self._order = itertools.count()
        self._paging = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def in_flight(self) -> int:
        """Parcels that are on their way or wait to be sent again."""
        return len(self._window) + len(self._resend)

    async def over(self, link: Link) -> None:
        """Deliver over this link until cancelled. Raises StorageError."""
        self._adopt(link)
        link.listen(
            acknowledged=self._acknowledged,
            received=lambda packet_id, code: self._received(link, packet_id, code),
            cleared=self._backlog.news.set,
        )
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

    def _adopt(self, link: Link) -> None:
        """Take over what the last link left unacknowledged.

        MQTT 5 section 4.4: with the session still present it is sent again, with its packet identifiers and DUP; if the
        session is gone the packets are forgotten, and their records are free to go another way.
        """
        unanswered = [*self._window.clear(), *self._resend]
        self._resend.clear()
        largest = link.limits.maximum_packet_size or math.inf
        now = clock.monotonic()
        for parcel in unanswered:
            if link.limits.session_present and parcel.size <= largest:
                self._resend.append(parcel)
            else:
                self._backlog.leave(parcel.records, now)
        self._window.limit = min(self._most_in_flight, link.limits.receive_maximum)

    # The plan.

    def _send(self, link: Link) -> None:
        now = clock.monotonic()
        batch: list[tuple[int, bool, Message]] = []
        if link.is_clear:
            while (record := self._backlog.next_live(now)) is not None:
                batch.append((0, False, self._message([record], Lane.FRESH, link.limits)))
                self._backlog.settle([record])
            while link.limits.maximum_qos > 0 and (parcel := self._next(link, now)) is not None:
                self._window.add(parcel, now)
                if parcel.is_released:
                    link.send(batch)
                    batch = []
                    link.release_again(parcel.packet_id)
                else:
                    batch.append((parcel.packet_id, parcel.dup, parcel.message))
        if batch:
            link.send(batch)
        self._set_alarm(now)
        if self._hungry():
            self._paging.set()

    def _set_alarm(self, now: float) -> None:
        """Have `_send` called again when something becomes ready by the passing of time alone."""
        times = [self._backlog.fresh_at()]
        if self._postponed:
            times.append(self._postponed[0][0])
        if self._queues and self._rate.free_at() > now:
            times.append(self._rate.free_at())
        due = min((time for time in times if time is not None and time > now), default=None)
        if self._alarm is not None:
            if self._alarm.when() == due:
                return
            self._alarm.cancel()
            self._alarm = None
        if due is not None:
            self._alarm = asyncio.get_running_loop().call_at(due, self._backlog.news.set)

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
        while lane := self._window.next_lane(fresh=self._backlog.has_fresh(now), backlog=self._has_backlog(now)):
            records = self._take(lane, link.limits, now)
            if records and (parcel := self._packed(records, lane, link)) is not None:
                if lane is Lane.BACKLOG:
                    self._rate.spend(parcel.size, now)
                return parcel
        return None

    def _has_backlog(self, now: float) -> bool:
        return bool(self._queues) and self._rate.free_at() <= now

    def _take(self, lane: Lane, limits: Limits, now: float) -> list[Record]:
        size = max(_LEAST_ARRAY_BYTES, min(_ARRAY_BYTES, self._window.pace.limit // _ARRAYS_IN_FLIGHT))
        size = min(size, (limits.maximum_packet_size or size * 2) // 2)
        if lane is Lane.FRESH:
            return self._backlog.next_fresh(now, Room(records=_BACKFILL_RECORDS, size=size))
        stream = self._queues.next_stream()
        most = _BACKFILL_RECORDS if topics.is_telemetry(stream.name) else 1
        return self._queues.take(stream, Room(records=most, size=size * (_COMPRESSES_TO if self._is_compressed else 1)))

    def _packed(self, records: list[Record], lane: Lane, link: Link) -> Parcel | None:
        """Return the records as one parcel; None where the server would not take a packet of this size."""
        message = self._message(records, lane, link.limits)
        size = link.size(message)
        most = link.limits.maximum_packet_size
        if most is not None and size > most:
            if len(records) > 1:
                half = len(records) // 2
                self._put_back(records[half:], lane)
                return self._packed(records[:half], lane, link)
            why = f"{size} bytes are more than the broker's Maximum Packet Size of {most}"
            self._backlog.quarantine(records[0], reason_code=0x95, reason=why)
            log.error("%s %d/%d goes to quarantine: %s", records[0].stream.name, records[0].epoch, records[0].seq, why)
            return None
        return Parcel(
            packet_id=self._free_packet_id(records[0].row), lane=lane, message=message, records=records, size=size
        )

    def _put_back(self, records: Sequence[Record], lane: Lane) -> None:
        if lane is Lane.FRESH:
            self._backlog.leave(records, clock.monotonic())
        else:
            self._queues.put_back(records)

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
                payload=encode.array(records) if len(records) > 1 else encode.record(records[0]),
                qos=min(stream.qos, limits.maximum_qos),
                retain=stream.retain and limits.retain_available,
            )
        array = encode.array(records)
        if self._is_compressed:
            return Message(
                topic=self._topics.backfill_compressed(stream.name),
                payload=zlib.compress(array),
                content_type="application/zlib",
            )
        return Message(topic=self._topics.backfill(stream.name), payload=array)

    # The answers.

    def _acknowledged(self, packet_id: int, reason_code: int) -> None:
        """Take PUBACK or PUBCOMP."""
        parcel = self._answered(packet_id)
        if parcel is None:
            return
        self._window.remove(packet_id)
        # A released message is the server's: PUBCOMP's 0x92 says that it no longer knows of it.
        verdict = Verdict.DELIVERED if parcel.is_released else reasons.verdict(reason_code)
        if verdict is Verdict.DELIVERED:
            self._backlog.settle(parcel.records)
        elif verdict is Verdict.LATER and parcel.refusals < _MOST_REFUSALS:
            self._postpone(parcel, reason_code)
        else:
            self._refused(parcel, reason_code)
        self._backlog.news.set()

    def _received(self, link: Link, packet_id: int, reason_code: int) -> None:
        """Take PUBREC (MQTT 5 section 4.3.3): a refusal ends the exchange, otherwise PUBREL follows."""
        if reason_code >= reasons.GRANTED_BELOW:
            self._acknowledged(packet_id, reason_code)
            return
        parcel = self._answered(packet_id)
        if parcel is None:
            link.release_unknown(packet_id)
        else:
            parcel.is_released = True
            link.release(packet_id)

    def _answered(self, packet_id: int) -> Parcel | None:
        parcel = self._window.get(packet_id)
        if parcel is None:
            log.warning("the broker acknowledged packet %d, which is not in flight", packet_id)
        elif packet_id == self._window.pace.timed:
            self._window.pace.answered(clock.monotonic())
        return parcel

    def _postpone(self, parcel: Parcel, reason_code: int) -> None:
        wait = min(_LONGEST_POSTPONED, 2.0**parcel.refusals)
        parcel.refusals += 1
        due = clock.monotonic() + wait
        heapq.heappush(self._postponed, (due, next(self._order), parcel))
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

    def _hungry(self) -> bool:
        return any(self._queues.of_priority(priority) < _LOW_WATER for priority in self._backlog.unpaged)

    async def _fetch(self) -> None:
        while True:
            await self._paging.wait()
            self._paging.clear()
            while self._hungry():
                enough = [one for one in self._backlog.unpaged if self._queues.of_priority(one) >= _LOW_WATER]
                self._queues.extend(await self._backlog.page(but=enough))
                self._backlog.news.set()

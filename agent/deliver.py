"""The way out: from the outbox's lanes through the window to the server, and what its answers mean."""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from agent import clock, reasons
from agent.again import Again, Suspicion
from agent.errors import Cause, LinkDownError
from agent.lanes import Lane, Parcel, Queues, Room, Window
from agent.model import Limits, Message, Record, Server
from agent.pace import Rate
from agent.pack import Packing
from agent.reasons import Verdict
from agent.topics import Topics

log = logging.getLogger(__name__)

_LOW_WATER = 200
_MOST_REFUSALS = 20
_EXACTLY_ONCE = 2
_CLOSED_UPON = 0x95  # the likeliest reason of those that MQTT 3.1.1 cannot give: packet too large
_HEADERS = 64  # bytes of a PUBLISH beside its payload, about


class Backlog(Protocol):
    """What delivery needs of the outbox."""

    news: asyncio.Event

    @property
    def unpaged(self) -> Collection[int]: ...  # noqa: D102
    def next_live(self, now: float) -> Record | None: ...  # noqa: D102
    def next_fresh(self, now: float, room: Room) -> list[Record]: ...  # noqa: D102
    def has_fresh(self, now: float) -> bool: ...  # noqa: D102
    def fresh_at(self) -> float | None: ...  # noqa: D102
    def is_stale(self, record: Record, now: float) -> bool: ...  # noqa: D102
    async def page(self, *, but: Collection[int]) -> list[Record]: ...  # noqa: D102
    def settle(self, records: Iterable[Record]) -> None: ...  # noqa: D102
    def leave(self, records: Sequence[Record], now: float) -> None: ...  # noqa: D102
    def quarantine(self, record: Record, *, reason_code: int, reason: str) -> None: ...  # noqa: D102
    def drop(self, record: Record) -> None: ...  # noqa: D102


class Link(Protocol):
    """What delivery needs of a connection to the server."""

    limits: Limits
    server: Server

    @property
    def is_clear(self) -> bool: ...  # noqa: D102
    @property
    def own(self) -> int: ...  # noqa: D102
    @property
    def ended(self) -> asyncio.Future[LinkDownError]: ...  # noqa: D102
    def listen(  # noqa: D102
        self,
        *,
        acknowledged: Callable[[int, int], bool],
        received: Callable[[int, int], None],
        completed: Callable[[int], bool],
        cleared: Callable[[], None],
    ) -> None: ...
    def size(self, message: Message) -> int: ...  # noqa: D102
    def send(self, parcels: Sequence[tuple[int, bool, Message]]) -> None: ...  # noqa: D102
    def takes(self, message: Message) -> bool: ...  # noqa: D102
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
        self._packing = Packing(topics=to, is_compressed=way.is_compressed, limits=Limits(session_present=False))
        self._most_in_flight = most_in_flight
        self._rate = Rate(way.rate)
        self._window = Window(limit=1, backlog_share=way.share)
        self._queues = Queues()
        self._again = Again()
        self._suspicion = Suspicion()
        self._given_up: set[int] = set()
        """Identifiers of packets that could not be sent again in their session, where they are still in use."""
        self._server: Server | None = None
        self._is_inherited = False
        """Whether the session holds what this process knows nothing of: it is an earlier one's, or of another time."""
        self._checked: set[int] = set()
        self._paging = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None

    async def over(self, link: Link) -> None:
        """Deliver over this link, which was adopted, until cancelled. Raises StorageError."""
        link.listen(
            acknowledged=self._acknowledged,
            received=lambda packet_id, code: self._received(link, packet_id, code),
            completed=self._completed,
            cleared=self._backlog.news.set,
        )
        self._backlog.news.set()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._fetch(), name="pages of the backlog")
                while True:
                    await self._backlog.news.wait()
                    self._backlog.news.clear()
                    self._send(link)
                    # Everything that was accepted or acknowledged meanwhile goes into one write.
                    await asyncio.sleep(0)
        finally:
            if link.ended.done():
                self._look_for_poison(link.ended.result(), link.limits)

    # What the last link left.

    def adopt(self, link: Link) -> None:
        """Take over what the last link left unacknowledged: at once, for a link may end before anything goes over it.

        MQTT 5 section 4.4: with the session still present it is sent again, with its packet identifiers and DUP; if the
        session is gone the packets are forgotten, and their records are free to go another way. So it is with another
        server: what it may have kept of an older session has nothing to do with these packets.
        """
        is_same = link.limits.session_present and link.server == self._server
        unanswered = [*self._window.clear(), *self._again.unanswered]
        self._again.unanswered.clear()
        if not is_same:
            self._given_up.clear()
        free: list[Record] = []
        for parcel in unanswered:
            if is_same and (parcel.is_released or link.takes(parcel.message)):
                self._again.unanswered.append(parcel)
                continue
            if is_same:
                self._given_up.add(parcel.packet_id)
            if parcel.lane is Lane.BACKLOG:
                self._queues.extend(parcel.records)
            else:
                free += parcel.records
        self._backlog.leave(free, clock.monotonic())
        if not is_same:
            self._is_inherited = link.limits.session_present
            self._checked.clear()
        self._server = link.server
        self._packing.limits = link.limits
        self._set_limit(link)

    def _set_limit(self, link: Link) -> None:
        """Leave room for the packets that the session sends for itself (MQTT 5 section 4.9)."""
        most = min(self._most_in_flight, link.limits.receive_maximum - link.own)
        self._window.limit = min(1, most) if self._suspicion.is_on else most

    def _look_for_poison(self, end: LinkDownError, limits: Limits) -> None:
        in_flight, waiting = self._window.parcels(), len(self._again.unanswered)
        code, found = end.reason_code, None
        if reasons.blames_a_packet(code):
            found = self._suspicion.blame(in_flight, waiting)
        elif end.cause in {Cause.CLOSED, Cause.RESET} and not limits.gives_reasons:
            code, found = _CLOSED_UPON, self._suspicion.closed(in_flight, waiting)
        if found is not None:
            self._window.remove(found.packet_id)
            self._refused(found, code)

    # The plan.

    def _send(self, link: Link) -> None:
        now = clock.monotonic()
        batch: list[tuple[int, bool, Message]] = []
        self._set_limit(link)
        if link.is_clear:
            while (record := self._backlog.next_live(now)) is not None:
                message = self._packing.message([record], Lane.FRESH)
                if link.takes(message):
                    batch.append((0, False, message))
                    self._backlog.settle([record])
                else:
                    self._backlog.drop(record)
            while link.limits.maximum_qos > 0 and (parcel := self._next(link, now)) is not None:
                self._window.add(parcel, now)
                if parcel.message.qos == _EXACTLY_ONCE:
                    link.send(batch)
                    batch = []
                    self._send_once(link, parcel)
                else:
                    batch.append((parcel.packet_id, parcel.dup, parcel.message))
        if batch:
            link.send(batch)
        self._set_alarm(now)
        if self._hungry():
            self._paging.set()

    def _send_once(self, link: Link, parcel: Parcel) -> None:
        if parcel.is_released:
            link.release_again(parcel.packet_id)
            return
        if self._is_inherited and not parcel.dup and parcel.packet_id not in self._checked:
            # An earlier process may have left a message under this identifier, for which this one would be taken.
            self._checked.add(parcel.packet_id)
            link.release(parcel.packet_id)
        link.send([(parcel.packet_id, parcel.dup, parcel.message)])

    def _set_alarm(self, now: float) -> None:
        """Have `_send` called again when something becomes ready by the passing of time alone."""
        times = [self._backlog.fresh_at(), self._again.due_at()]
        if self._queues and self._rate.free_at() > now:
            times.append(self._rate.free_at())
        due = min((time for time in times if time is not None and time > now), default=None)
        if self._alarm is not None:
            if self._alarm.when() == due:
                return
            self._alarm.cancel()
            self._alarm = None
        if due is not None:
            self._alarm = asyncio.get_running_loop().call_at(due, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._backlog.news.set()

    def _next(self, link: Link, now: float) -> Parcel | None:
        """Return the parcel to send next, or None: the window is full or there is nothing."""
        if self._again.unanswered:
            if not self._window.has_room:
                return None
            again = self._again.unanswered.popleft()
            again.dup = True
            return again
        while self._window.has_room and (refused := self._again.next_due(now)) is not None:
            if (parcel := self._repacked(refused, link, now)) is not None:
                return parcel
        return None if self._again.is_full else self._next_of_the_lanes(link, now)

    def _next_of_the_lanes(self, link: Link, now: float) -> Parcel | None:
        while lane := self._window.next_lane(fresh=self._backlog.has_fresh(now), backlog=self._has_backlog(now)):
            records = self._take(lane, now)
            if records and (parcel := self._packed(records, lane, link)) is not None:
                if lane is Lane.BACKLOG:
                    self._rate.spend(parcel.size, now)
                return parcel
        return None

    def _has_backlog(self, now: float) -> bool:
        return bool(self._queues) and self._rate.free_at() <= now

    def _take(self, lane: Lane, now: float) -> list[Record]:
        pace = self._window.pace.limit
        if lane is Lane.FRESH:
            return self._backlog.next_fresh(now, self._packing.fresh_room(pace))
        stream = self._queues.next_stream()
        return self._queues.take(stream, self._packing.backlog_room(stream, pace))

    def _packed(self, records: list[Record], lane: Lane, link: Link) -> Parcel | None:
        """Return the records as one parcel; None where the server would not take a packet of this size."""
        message = self._packing.message(records, lane)
        if not link.takes(message):
            if len(records) > 1:
                half = len(records) // 2
                self._put_back(records[half:], lane)
                return self._packed(records[:half], lane, link)
            most = self._packing.limits.maximum_packet_size
            why = f"{link.size(message)} bytes are more than the broker's Maximum Packet Size of {most}"
            self._backlog.quarantine(records[0], reason_code=0x95, reason=why)
            log.error("%s %d/%d goes to quarantine: %s", records[0].stream.name, records[0].epoch, records[0].seq, why)
            return None
        packet_id = self._free_packet_id(records[0].row)
        size = len(message.payload) + _HEADERS
        return Parcel(packet_id=packet_id, lane=lane, message=message, records=records, size=size)

    def _put_back(self, records: Sequence[Record], lane: Lane) -> None:
        if lane is Lane.FRESH:
            self._backlog.leave(records, clock.monotonic())
        else:
            self._queues.put_back(records)

    def _repacked(self, parcel: Parcel, link: Link, now: float) -> Parcel | None:
        """Return a parcel that was refused as a new one; None if its records have to go another way by now."""
        if parcel.lane is Lane.FRESH and self._backlog.is_stale(parcel.records[0], now):
            self._backlog.leave(parcel.records, now)
            return None
        if not link.takes(parcel.message):  # it was packed for another connection
            self._put_back(parcel.records, parcel.lane)
            return None
        # Newer records may have been retained meanwhile. Another identifier, in case that it was the reason.
        parcel.message = replace(parcel.message, retain=False)
        parcel.packet_id = self._free_packet_id(parcel.records[0].row + parcel.refusals)
        parcel.dup = False
        return parcel

    def _free_packet_id(self, row: int) -> int:
        taken: Collection[int] = self._given_up
        if self._again.unanswered:
            taken = {*taken, *(parcel.packet_id for parcel in self._again.unanswered)}
        return self._window.free_packet_id(row, taken)

    # The answers.

    def _acknowledged(self, packet_id: int, reason_code: int) -> bool:
        """Take PUBACK or a PUBREC that refuses; tell whether the packet was in flight."""
        parcel = self._answered(packet_id)
        if parcel is None:
            return False
        self._out_of_flight(packet_id)
        verdict = reasons.verdict(reason_code)
        if verdict is Verdict.DELIVERED:
            self._backlog.settle(parcel.records)
        elif verdict is Verdict.LATER and parcel.refusals < _MOST_REFUSALS:
            self._postpone(parcel, reason_code)
        else:
            self._refused(parcel, reason_code)
        self._backlog.news.set()
        return True

    def _completed(self, packet_id: int) -> bool:
        """Take PUBCOMP, whatever it says: a released message is the server's. Tell whether the packet was in flight."""
        parcel = self._window.get(packet_id)
        if parcel is None or not parcel.is_released:
            return False  # it answers the release of what an earlier process left
        self._out_of_flight(packet_id)
        self._backlog.settle(parcel.records)
        self._backlog.news.set()
        return True

    def _out_of_flight(self, packet_id: int) -> None:
        self._window.remove(packet_id)
        if packet_id == self._window.pace.timed:
            self._window.pace.answered(clock.monotonic())
        if self._suspicion.is_on:
            self._suspicion.acquit()

    def _received(self, link: Link, packet_id: int, reason_code: int) -> None:
        """Take a PUBREC that accepts (MQTT 5 section 4.3.3): PUBREL follows."""
        parcel = self._answered(packet_id)
        if parcel is None:
            link.release_unknown(packet_id)
        elif parcel.message.qos == _EXACTLY_ONCE:
            parcel.is_released = True
            link.release(packet_id)
        else:
            log.warning("the broker answered packet %d with PUBREC (%d), but it was QoS 1", packet_id, reason_code)

    def _answered(self, packet_id: int) -> Parcel | None:
        parcel = self._window.get(packet_id)
        if parcel is None:
            log.debug("the broker acknowledged packet %d, which is not in flight", packet_id)
        return parcel

    def _postpone(self, parcel: Parcel, reason_code: int) -> None:
        wait = self._again.postpone(parcel, clock.monotonic())
        why = reasons.describe(reason_code)
        log.warning("the broker refused %s: %s; again in %.0f s", parcel.message.topic, why, wait)

    def _refused(self, parcel: Parcel, reason_code: int) -> None:
        why = reasons.describe(reason_code)
        if len(parcel.records) > 1 and reasons.is_of_the_content(reason_code):
            log.warning(
                "the broker refused %d records on %s together: %s", len(parcel.records), parcel.message.topic, why
            )
            half = len(parcel.records) // 2
            for records in (parcel.records[:half], parcel.records[half:]):
                message = self._packing.message(records, parcel.lane)
                # Its size is counted as that of the whole until it has gone.
                self._again.at_once([replace(parcel, records=records, message=message)])
            return
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

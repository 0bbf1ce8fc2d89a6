"""What has to be sent again: after a lost connection, and after a refusal that may pass. Pure; times are monotonic."""

import heapq
import itertools
from collections import deque
from collections.abc import Iterable

from agent.lanes import Parcel

_MOST_POSTPONED = 1_000
_LONGEST = 300.0


class Again:
    """Parcels that wait to be sent again.

    `unanswered` were in flight when a connection of the session ended, and go first, in their order (MQTT 5 sections
    4.4 and 4.6). The others were refused for the time being, and go as new packets when they are due.
    """

    def __init__(self) -> None:
        self.unanswered: deque[Parcel] = deque()
        self._postponed: list[tuple[float, int, Parcel]] = []
        self._due: deque[Parcel] = deque()
        self._order = itertools.count()

    @property
    def is_full(self) -> bool:
        """Whether so much was refused that nothing new should be sent meanwhile."""
        return len(self._postponed) >= _MOST_POSTPONED

    def postpone(self, parcel: Parcel, now: float) -> float:
        """Take a parcel that was refused, and return for how many seconds: longer each time, 5 min at most."""
        wait = min(_LONGEST, 2.0**parcel.refusals)
        parcel.refusals += 1
        heapq.heappush(self._postponed, (now + wait, next(self._order), parcel))
        return wait

    def at_once(self, parcels: Iterable[Parcel]) -> None:
        """Take parcels that are due already."""
        self._due.extend(parcels)

    def next_due(self, now: float) -> Parcel | None:
        """Remove and return the next parcel that is due."""
        while self._postponed and self._postponed[0][0] <= now:
            self._due.append(heapq.heappop(self._postponed)[2])
        return self._due.popleft() if self._due else None

    def due_at(self) -> float | None:
        """Return when the next one is due; None without any."""
        return self._postponed[0][0] if self._postponed else None


class Suspicion:
    """Looks for the packet for which a server ends connections, so that it does not do so for ever.

    The DISCONNECT names no packet. So what was in flight then goes one at a time for a while; a parcel that was alone
    in flight twice when the server blamed a packet is taken for the one.
    """

    _MOST_BLAMED = 2
    _MOST_CLOSED = 8

    def __init__(self) -> None:
        self._first = 0
        self._closings = 0
        self._left = 0
        self._row = 0
        self._blamed = 0

    @property
    def is_on(self) -> bool:
        """Whether parcels are to be sent one at a time."""
        return self._left > 0

    def blame(self, in_flight: list[Parcel], waiting: int) -> Parcel | None:
        """Take what was in flight when the server blamed a packet, and how much else; return the one that is found."""
        if not in_flight:
            return None
        if len(in_flight) > 1:
            self._left = len(in_flight) + waiting
            return None
        [parcel] = in_flight
        row = parcel.records[0].row
        self._blamed = self._blamed + 1 if row == self._row else 1
        self._row = row
        self._left = max(self._left, 1)
        return parcel if self._blamed >= self._MOST_BLAMED else None

    def closed(self, in_flight: list[Parcel], waiting: int) -> Parcel | None:
        """Take what was in flight when the server closed without a word, and how much else; return what is found.

        This is how a server of MQTT 3.1.1 refuses a packet. But servers close for many reasons: blamed is only what was
        the first that it had not answered several times in a row, so that it holds up all others anyway.
        """
        if not in_flight or in_flight[0].is_released:
            return None
        row = in_flight[0].records[0].row
        self._closings = self._closings + 1 if row == self._first else 1
        self._first = row
        return self.blame(in_flight, waiting) if self._closings >= self._MOST_CLOSED else None

    def acquit(self) -> None:
        """Note that a parcel was answered."""
        self._left = max(0, self._left - 1)

"""How much may be on its way: by what the server's answers cost in time and what the backlog may cost in bytes. Pure.

The window of packets cannot tell a thin link from a fat one: 256 KiB in flight are 20 ms on a LAN and 8 s on a cellular
uplink of 256 kbit/s, where everything that comes later waits behind them, PINGREQ too. So bytes in flight follow the
delay that they cause, as in the delay-based congestion control of RFC 6817: what an acknowledgement takes beyond the
shortest that was seen on this connection is the time in queues.
"""

import math

_FIRST = 16 * 1024
_LEAST = 4 * 1024
_MOST = 256 * 1024
_STEP = 1.25
_WANTED_DELAY = 0.5
"""Seconds that an acknowledgement may take beyond the shortest time that one took; above it, less is sent."""


class Pace:
    """The bytes that may be in flight. One parcel at a time is timed, so that this costs nothing per record.

    The limit doubles with each answer in time until the first that is late, and grows by a quarter after that; it
    grows only if it was reached. A late answer brings it down in the measure in which it was late.
    """

    def __init__(self) -> None:
        self.limit = _FIRST
        self._timed: int | None = None
        self._sent_at = 0.0
        self._was_reached = False
        self._was_late = False
        self._shortest = math.inf

    @property
    def timed(self) -> int | None:
        """The packet identifier of the parcel whose answer is timed."""
        return self._timed

    def sent(self, packet_id: int, now: float) -> None:
        """Time this parcel, if none is timed."""
        if self._timed is None:
            self._timed, self._sent_at, self._was_reached = packet_id, now, False

    def reached(self) -> None:
        """Note that the limit held something back."""
        self._was_reached = True

    def answered(self, now: float) -> None:
        """Take the answer to the parcel that is timed."""
        took, self._timed = now - self._sent_at, None
        self._shortest = min(self._shortest, took)
        delay = took - self._shortest
        if delay > _WANTED_DELAY:
            self._was_late = True
            self.limit = max(_LEAST, int(self.limit * _WANTED_DELAY / delay))
        elif self._was_reached:
            self.limit = min(_MOST, int(self.limit * (_STEP if self._was_late else 2)))


class Rate:
    """At most so many bytes a second, on average; 0 is without limit."""

    def __init__(self, bytes_per_second: int) -> None:
        self._rate = bytes_per_second
        self._free_at = 0.0

    def free_at(self) -> float:
        """Return the monotonic time from which something may be sent."""
        return self._free_at

    def spend(self, size: int, now: float) -> None:
        """Count what is sent now."""
        if self._rate:
            self._free_at = max(self._free_at, now) + size / self._rate

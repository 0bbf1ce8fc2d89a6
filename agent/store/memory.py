"""What memory alone holds, and how much of it there may be."""

import asyncio

from agent import clock

MOST_UNWRITTEN = 10_000
"""Records that memory alone may hold; at this many, or at this many bytes, they are written early."""
MOST_UNWRITTEN_BYTES = 8 * 1024 * 1024
_FULL_FOR = 0.05
"""Seconds for which memory may be full before it is written early: acknowledgements may be about to empty it."""


class Memory:
    """Counts records that are not on the disk yet; `room` is set while there is room for one more."""

    def __init__(self) -> None:
        self.room = asyncio.Event()
        self.room.set()
        self._records = 0
        self._bytes = 0
        self._full_since: float | None = None

    def add(self, size: int) -> bool:
        """Count a record of this many bytes; tell whether memory is full now and was not before."""
        self._records += 1
        self._bytes += size
        if not self._is_full() or self._full_since is not None:
            return False
        self._full_since = clock.monotonic()
        self.room.clear()
        return True

    def remove(self, records: int, size: int) -> None:
        """Count records that are on the disk, or ended."""
        self._records -= records
        self._bytes -= size
        if self._full_since is not None and not self._is_full():
            self._full_since = None
            self.room.set()

    def hurry(self) -> bool:
        """Have what there is written at once; tell whether there is something."""
        if self._records:
            self._full_since = clock.monotonic() - _FULL_FOR
        return self._records > 0

    def due_at(self) -> float | None:
        """Return the monotonic time at which all has to be written; None: not for want of room."""
        return None if self._full_since is None else self._full_since + _FULL_FOR

    def is_due(self, now: float) -> bool:
        """Tell whether that time has come."""
        return self._full_since is not None and now - self._full_since >= _FULL_FOR

    def _is_full(self) -> bool:
        return self._records >= MOST_UNWRITTEN or self._bytes >= MOST_UNWRITTEN_BYTES

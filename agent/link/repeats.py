"""Telling the same thing again, but more and more rarely. Pure: the time is an argument."""

from collections.abc import Hashable
from math import inf

_FIRST, _LONGEST = 60.0, 3600.0


class Repeats:
    """Says when something that happens over and over is to be told: at first, and then at intervals that double."""

    def __init__(self) -> None:
        self._due: dict[Hashable, tuple[float, float]] = {}

    def is_due(self, what: Hashable, now: float) -> bool:
        """Tell whether `what` is to be told now; then it counts as told."""
        due, interval = self._due.get(what, (-inf, _FIRST))
        if now < due:
            return False
        self._due[what] = (now + interval, min(2 * interval, _LONGEST))
        return True

    def forget(self) -> None:
        """Tell everything anew."""
        self._due.clear()

"""Counters that grow, as rates."""

from collections.abc import Mapping


class Rates:
    """Turns counters into rates a second, from one reading to the next."""

    def __init__(self) -> None:
        self._at = 0.0
        self._before: Mapping[str, float] = {}

    def since_last(self, counters: Mapping[str, float], now: float) -> dict[str, float]:
        """Return the rates of the counters that were there last time too, and have not started over since.

        `now` is in monotonic seconds. The first time there are none.
        """
        passed, before = now - self._at, self._before
        self._at, self._before = now, dict(counters)
        if passed <= 0:
            return {}
        return {
            name: round((count - before[name]) / passed, 1)
            for name, count in counters.items()
            if name in before and count >= before[name]
        }

"""What happened to the link, as figures. Pure: the time is an argument."""

from collections import Counter, deque
from collections.abc import Sequence
from math import ceil

from agent.errors import Cause

_KEPT = 256
_MEDIAN, _HIGH = 0.50, 0.99


def percentile(values: Sequence[float], part: float) -> float:
    """Return the smallest value that `part` of the values do not exceed (nearest rank); one there must be."""
    ordered = sorted(values)
    return ordered[max(0, ceil(part * len(ordered)) - 1)]


class History:
    """Counts connections and what ended them. Times are monotonic, in seconds.

    A gap is the time without a link: from the last sign of life on the one to CONNACK on the next. A handoff is one
    after which this side has another address. A false alarm is a link that was given up for its silence although the
    next attempt succeeded at once from the same address.
    """

    def __init__(self, now: float) -> None:
        self.connects = 0
        self.attempts = 0
        self.handoffs = 0
        self.false_alarms = 0
        self.downs: Counter[Cause] = Counter()
        self._offline = 0.0
        self._down_since = now
        self._is_up = False
        self._gaps: deque[float] = deque(maxlen=_KEPT)
        self._handoff_gaps: deque[float] = deque(maxlen=_KEPT)
        self._source = ""
        self._attempts_before = 0
        self._ended_by: Cause | None = None

    def attempt(self) -> None:
        """Count an attempt to connect."""
        self.attempts += 1

    def up(self, now: float, source: str) -> None:
        """Note a link from this local address."""
        gap = now - self._down_since
        self._offline += gap
        self.connects += 1
        if self._ended_by is not None:
            self._gaps.append(gap)
            is_first_attempt = self.attempts == self._attempts_before + 1
            if source != self._source:
                self.handoffs += 1
                self._handoff_gaps.append(gap)
            elif self._ended_by is Cause.NO_PROGRESS and is_first_attempt:
                self.false_alarms += 1
        self._is_up, self._source = True, source

    def down(self, now: float, cause: Cause, *, silent_for: float = 0.0) -> None:
        """Note the end of a link on which nothing was heard for the last `silent_for` seconds."""
        self._is_up = False
        self.downs[cause] += 1
        self._ended_by, self._attempts_before = cause, self.attempts
        self._down_since = now - silent_for

    def figures(self, now: float) -> dict[str, object]:
        """Return the figures: counts, and seconds."""
        offline = self._offline + (0.0 if self._is_up else now - self._down_since)
        return {
            "connects": self.connects,
            "attempts": self.attempts,
            "offline": round(offline, 1),
            "gap_p50": _rounded(self._gaps, _MEDIAN),
            "gap_p99": _rounded(self._gaps, _HIGH),
            "handoffs": self.handoffs,
            "handoff_gap_p50": _rounded(self._handoff_gaps, _MEDIAN),
            "handoff_gap_p99": _rounded(self._handoff_gaps, _HIGH),
            "false_alarms": self.false_alarms,
            "downs": {cause.value: count for cause, count in sorted(self.downs.items())},
        }


def _rounded(values: Sequence[float], part: float) -> float | None:
    return round(percentile(values, part), 3) if values else None

"""When a source is read: a grid that does not drift. Times are monotonic seconds."""

import math


def next_tick(*, scheduled: float, now: float, interval: float) -> float:
    """Return the first point after `now` of the grid that goes on from `scheduled` every `interval` seconds.

    Points that `now` has passed already are skipped: a reading that is late is not made up for. `now` before
    `scheduled` gives the next point all the same: a tick is never due twice.
    """
    passed = max(0, math.floor((now - scheduled) / interval))
    tick = scheduled + (passed + 1) * interval
    # Rounding may have put it on `now` itself, or one interval too far.
    if tick <= now:
        return tick + interval
    return tick


def missed(*, scheduled: float, tick: float, interval: float) -> int:
    """Return how many points lie between `scheduled` and the `tick` that follows it."""
    return max(0, round((tick - scheduled) / interval) - 1)

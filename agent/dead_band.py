"""Which samples say something new. Pure."""

import math
from collections.abc import Mapping

from agent.model import Fields

OTHERS = "*"
"""The band of the fields that have none of their own."""

_ABSENT = object()


class DeadBand:
    """Passes a sample if a field moved by more than its band since the last that passed, or at the heartbeat.

    A field without a band, where there is no `*` either, is not looked at. What is no number passes when it differs.
    """

    def __init__(self, bands: Mapping[str, float], *, heartbeat: float) -> None:
        self._bands = bands
        self._others = bands.get(OTHERS)
        self._heartbeat = heartbeat
        self._last: Mapping[str, object] = {}
        self._passed_at: float | None = None

    def passes(self, fields: Fields, now: float) -> bool:
        """Tell whether the sample counts; it is then what the next ones are held against. `now` is monotonic."""
        if self._is_due(now) or self._has_moved(fields):
            self._last, self._passed_at = dict(fields), now
            return True
        return False

    def _is_due(self, now: float) -> bool:
        return self._passed_at is None or 0 < self._heartbeat <= now - self._passed_at

    def _has_moved(self, fields: Fields) -> bool:
        names = fields.keys() | self._last.keys() if self._others is not None else self._bands.keys()
        for name in names:
            band = self._bands.get(name, self._others)
            if band is not None and _moved(self._last.get(name, _ABSENT), fields.get(name, _ABSENT), band):
                return True
        return False


def _moved(before: object, now: object, band: float) -> bool:
    if not (_is_number(before) and _is_number(now)):
        return type(before) is not type(now) or before != now
    try:
        off = abs(float(now) - float(before))  # type: ignore[arg-type]
    except OverflowError:  # an integer beyond the floats
        return before != now
    if math.isnan(off):  # of two values that are no distance apart, or of which one is none
        return repr(before) != repr(now)
    return off > band


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

"""How long an answer may take before the link is dead, from the answers so far. Pure."""

_GAIN, _GAIN_OF_DEVIATION = 1 / 8, 1 / 4  # RFC 6298 section 2
_MARGIN = 1.0
_FACTOR = 2.0
_LEAST = 3.0
_LEAST_FOR_A_PROBE = 1.0
_LEAST_FOR_A_SYN = 0.4


class RoundTrip:
    """The smoothed round-trip time and its mean deviation (RFC 6298 section 2), in seconds.

    What is timed is an answer of the server's (PUBACK, PINGRESP, CONNACK), so that its own delay counts as well as the
    network's. `dead_after` is the longest deadline, and the one before the first answer.
    """

    def __init__(self, *, dead_after: float) -> None:
        self._dead_after = dead_after
        self.smoothed: float | None = None
        self.deviation = 0.0

    def answered(self, after: float) -> None:
        """Count an answer that came `after` seconds."""
        if self.smoothed is None:
            self.smoothed, self.deviation = after, after / 2
            return
        self.deviation += _GAIN_OF_DEVIATION * (abs(self.smoothed - after) - self.deviation)
        self.smoothed += _GAIN * (after - self.smoothed)

    def forget(self) -> None:
        """Begin anew: the network is another one."""
        self.smoothed, self.deviation = None, 0.0

    @property
    def deadline(self) -> float:
        """How many seconds without any progress make a link dead on which an answer is outstanding."""
        if self.smoothed is None:
            return self._dead_after
        return min(max(_MARGIN + _FACTOR * self._longest(), _LEAST), self._dead_after)

    @property
    def probe_deadline(self) -> float:
        """How many seconds the answer to a probe may take."""
        if self.smoothed is None:
            return self._dead_after
        return min(max(_FACTOR * self._longest(), _LEAST_FOR_A_PROBE), self._dead_after)

    @property
    def again_after(self) -> float | None:
        """How many seconds without an answer make it worth while to send a SYN again; None: not known."""
        return None if self.smoothed is None else max(_LEAST_FOR_A_SYN, _FACTOR * self._longest())

    def _longest(self) -> float:
        assert self.smoothed is not None
        return self.smoothed + 4 * self.deviation

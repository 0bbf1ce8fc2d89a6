"""How long to wait before the next attempt to connect. Pure: the random source is an argument."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from math import inf

_HIGHEST_EXPONENT = 62  # base * 2**n overflows a float at n = 1024, which is 43 minutes of failures


class Strategy(StrEnum):
    """How waits grow. Full jitter keeps a thousand robots from coming back in step."""

    FULL_JITTER = "full-jitter"
    EXPONENTIAL_JITTER = "exponential-jitter"
    EXPONENTIAL = "exponential"
    FIXED = "fixed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Waits in seconds: `base` doubles with each failure up to `cap`; `jitter` is what exponential-jitter adds."""

    strategy: Strategy = Strategy.FULL_JITTER
    base: float = 1.0
    cap: float = 30.0
    jitter: float = 0.5

    def wait(self, failures: int, *, uniform: Callable[[float, float], float], most: float = inf) -> float:
        """Return the seconds to wait after `failures` (from 0) earlier failures in a row.

        `uniform(low, high)` is a source of random numbers, as `random.uniform`. `most` lowers the cap for this once.
        """
        if self.strategy is Strategy.FIXED:
            return self.base
        grown = min(self.cap, most, self.base * 2.0 ** min(failures, _HIGHEST_EXPONENT))
        if self.strategy is Strategy.FULL_JITTER:
            return uniform(0.0, grown)
        if self.strategy is Strategy.EXPONENTIAL_JITTER:
            return grown + uniform(0.0, self.jitter)
        return grown

"""Whether every flow of the agent moves. Pure: the time is an argument."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(slots=True)
class Pulse:
    """A flow's sign of life. What it begins must end, or begin anew, `within` so many seconds.

    A flow that rests, because there is nothing to do or because it waits for somebody outside, owes nothing: being
    offline is no illness.
    """

    name: str
    within: float
    since: float | None = None

    def begin(self, now: float) -> None:
        """Note that something is begun."""
        self.since = now

    def end(self) -> None:
        """Note that it has ended."""
        self.since = None


class Health:
    """The pulses of all flows."""

    def __init__(self) -> None:
        self._pulses: list[Pulse] = []

    def pulse(self, name: str, *, within: float) -> Pulse:
        """Return the pulse of one more flow."""
        pulse = Pulse(name, within)
        self._pulses.append(pulse)
        return pulse

    def verdict(self, now: float) -> str:
        """Return which flow stands still, the longest first, and for how long; empty: all move."""
        return "; ".join(f"{pulse.name} stands still for {still:.0f} s" for still, pulse in self._standing(now))

    def _standing(self, now: float) -> Iterator[tuple[float, Pulse]]:
        started = [(now - pulse.since, pulse) for pulse in self._pulses if pulse.since is not None]
        late = [(still, pulse) for still, pulse in started if still > pulse.within]
        yield from sorted(late, key=lambda one: -one[0])

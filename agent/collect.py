"""The way in for this machine's own readings: a source is read on a grid, and what it gives is accepted."""

import asyncio
import logging
from contextlib import suppress
from math import inf
from typing import Protocol

from agent import clock
from agent.errors import AbsentError, ReadingError
from agent.health import Pulse
from agent.model import Fields, Record, Sample
from agent.ticker import missed, next_tick

log = logging.getLogger(__name__)

LOOK_AGAIN_AFTER = 60.0
"""Seconds at least between two looks for hardware that was absent."""
_SAY_AGAIN_AFTER = 600.0


class Source(Protocol):
    """Something that can be read; it may block."""

    def read(self) -> Fields: ...  # noqa: D102


class Inlet(Protocol):
    """What takes samples in."""

    async def room(self) -> None: ...  # noqa: D102
    def accept(self, sample: Sample) -> Record: ...  # noqa: D102


class Cadence:
    """How often a source is read: an interval in seconds, which may change."""

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self._changed = asyncio.Event()

    def change(self, interval: float) -> None:
        """Read the source at once, and then every `interval` seconds."""
        if interval != self.interval:
            self.interval = interval
            self._changed.set()

    async def wait(self, until: float) -> bool:
        """Wait until that monotonic time; tell whether the interval has changed before."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._changed.wait()
        changed = self._changed.is_set()
        self._changed.clear()
        return changed


async def collect(source: Source, into: Inlet, *, stream: str, cadence: Cadence, pulse: Pulse | None = None) -> None:
    """Read the source on the cadence's grid, for ever. A reading that fails costs that reading only.

    `pulse` beats with each reading.
    """
    pulse = pulse or Pulse(stream, inf)
    tick = clock.monotonic()
    trouble = _Trouble(stream)
    while True:
        step = interval = cadence.interval
        await into.room()
        ts, taken = clock.unix_ms(), clock.monotonic()
        try:
            pulse.begin(clock.monotonic())
            fields = await asyncio.to_thread(source.read)
            pulse.end()
            if fields:
                _accept(into, Sample(stream=stream, ts=ts, taken=taken, fields=fields))
            trouble.over()
        except AbsentError as exc:
            trouble.absent(exc)
            step = max(interval, LOOK_AGAIN_AFTER)
        except ReadingError as exc:
            trouble.failed(exc, taken)
        due = next_tick(scheduled=tick, now=clock.monotonic(), interval=step)
        if late := missed(scheduled=tick, tick=due, interval=step):
            log.debug("%s: %d ticks were missed", stream, late)
        tick = due
        if await cadence.wait(tick):
            tick = clock.monotonic()


def _accept(into: Inlet, sample: Sample) -> None:
    try:
        into.accept(sample)
    except ValueError as exc:
        raise ReadingError(str(exc)) from exc


class _Trouble:
    """Says what goes wrong with a source once, not at every tick."""

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._failed: str | None = None
        self._say_again_at = 0.0
        self._absent = False

    def absent(self, exc: AbsentError) -> None:
        if not self._absent:
            log.debug("%s: not on this machine: %s", self._stream, exc)
        self._absent, self._failed = True, None

    def failed(self, exc: ReadingError, now: float) -> None:
        if str(exc) != self._failed or now >= self._say_again_at:
            log.warning("%s: %s", self._stream, exc)
            self._failed, self._say_again_at = str(exc), now + _SAY_AGAIN_AFTER

    def over(self) -> None:
        if self._failed is not None:
            log.info("%s: can be read again", self._stream)
        self._failed, self._absent = None, False

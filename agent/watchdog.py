"""The service manager's watchdog (sd_watchdog_enabled(3)): told that all is well only while every flow moves."""

import asyncio
import logging
from typing import Protocol

from agent import clock
from agent.health import Health

log = logging.getLogger(__name__)

_OFTEN = 3  # times in the watchdog's time
_LONGEST = 5.0


class Notifier(Protocol):
    """Who tells the service manager."""

    def alive(self) -> None: ...  # noqa: D102
    def status(self, text: str) -> None: ...  # noqa: D102


async def watch(health: Health, notifier: Notifier, *, within: float) -> None:
    """Look after the flows, until cancelled; `within` is the watchdog's time in seconds.

    A blocked event loop does not come here at all. In both cases the service manager sends SIGABRT in the end, and
    faulthandler prints where each thread stands.
    """
    told = ""
    while True:
        verdict = health.verdict(clock.monotonic())
        if not verdict:
            notifier.alive()
            if told:
                log.warning("all flows move again")
        elif not told:
            log.error("the watchdog is not told that all is well: %s", verdict)
            notifier.status(verdict)
        told = verdict
        await asyncio.sleep(min(within / _OFTEN, _LONGEST))

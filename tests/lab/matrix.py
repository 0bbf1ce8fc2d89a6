"""The faults by name, each with what the agent is to reach in it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial

from tests.lab import faults
from tests.lab.faults import Lab
from tests.lab.net import Nat


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Seconds at p95, disconnects a client-minute; nothing is ever to be lost. A figure of None has no target."""

    next: float | None = None
    next_tls: float | None = None
    noticed: float | None = None
    disconnects: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`play` returns when the fault is over; the path is usable from then on, or with `at_once` from its beginning.

    `lasts` is how long it goes on, in seconds. Before it, each client hands over `unsent` bytes that get nowhere.
    """

    name: str
    play: Callable[[Lab], Awaitable[None]]
    target: Target
    lasts: float = 0.0
    unsent: int = 0
    nat: Nat = Nat.NONE
    at_once: bool = False


def _lasting(
    name: str, fault: Callable[[Lab], AbstractAsyncContextManager[None]], seconds: float, target: Target
) -> Case:
    async def play(lab: Lab) -> None:
        async with fault(lab):
            await asyncio.sleep(seconds)

    return Case(name=f"{name}-{seconds:g}", play=play, lasts=seconds, target=target)


def _handoffs() -> Iterator[Case]:
    for nat in Nat:
        for gap in (0, 3):
            name = f"handoff-{gap}" + ("-nat" if nat is Nat.MASQUERADE else "")
            yield Case(name=name, play=partial(faults.handoff, gap=gap), lasts=gap, target=_HANDOFF, nat=nat)


_HANDOFF = Target(next=1.0, next_tls=1.5)
_SILENCE = Target(next=5.0, noticed=5.0)
_RESTART = Target(next=5.0)
_LOSS = Target(disconnects=0.5)

CASES = {
    case.name: case
    for case in (
        _lasting("admin-down", faults.admin_down, 10, Target(next=1.0)),
        _lasting("carrier-off", faults.carrier_off, 10, Target(next=1.0)),
        *(_lasting("black-hole", faults.black_hole, seconds, _SILENCE) for seconds in (5, 20, 45, 120)),
        *_handoffs(),
        Case(name="handoff-1MB", play=partial(faults.handoff, gap=0), target=_HANDOFF, unsent=1_000_000),
        Case(name="rehome", play=faults.rehome, target=_HANDOFF),
        Case(name="reset", play=faults.reset_by_middlebox, target=_RESTART, at_once=True),
        *(_lasting("restart", faults.broker_gone, seconds, _RESTART) for seconds in (1, 10)),
        _lasting("frozen", faults.broker_frozen, 20, _SILENCE),
        _lasting("loss", partial(faults.poor_air, loss=0.20, delay=0.150), 60, _LOSS),
    )
}
NOT_BY_DEFAULT = frozenset({"black-hole-120"})
"""It is left out where no faults are named: it takes long, and is like the one of 45 s."""

"""One fault, with all contenders in it at once, and what became of each client."""

import asyncio
import contextlib
import math
import random
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.lab.contenders import Client, Contender
from tests.lab.faults import Lab
from tests.lab.matrix import Case
from tests.lab.net import HALF

_STEADY = 4
_MARGIN = 0.010
"""What a frame takes beyond half a round trip at most, on a busy machine."""
_SETTLE = 20.0
_WRITTEN = 1.0
"""After so long the clients have written what they can, and none has given up yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What became of a client, in seconds.

    `next`: from the moment when the path is usable (the program that made it so has ended, some milliseconds later) to
    the next PUBACK; infinite where it did not come back. `noticed`:
    from the beginning of the fault to the client's own word, None where it has not said any. `disconnects` are those of
    `minutes`, from the fault's beginning on. `lost` are messages that never arrived.
    """

    case: str
    contender: str
    next: float
    noticed: float | None
    disconnects: int
    minutes: float
    lost: int
    sent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Clients:
    """So many of a contender, at once."""

    contender: Contender
    count: int = 1


async def measure(
    lab: Lab, case: Case, asked: Sequence[Clients], folder: Path, *, patience: float = 150.0
) -> list[Figures]:
    """Begin with a fresh network, broker and clients; wait `patience` seconds at most for each client's return.

    The folder gets the files of each client, and a timeline for each.
    """
    loop = asyncio.get_running_loop()
    broker, arrived = lab.broker, lab.broker.arrived
    await lab.net.reset(case.nat)
    arrived.clear()
    async with broker.running(), AsyncExitStack() as stack:
        clients: list[Client] = []
        for item in asked:
            for _ in range(item.count):
                name = f"{item.contender.name}-{len(clients)}"
                files = folder / name
                files.mkdir(parents=True)
                clients.append(await stack.enter_async_context(item.contender.run(lab.net.robot, files, name)))

        def are_steady() -> bool:
            return all(len(arrived.get(client.name, ())) >= _STEADY for client in clients)

        await broker.until(are_steady, within=60, story=lambda: f"not all are steady: {_counts(clients, lab)}")
        await asyncio.sleep(random.uniform(0, 0.5))  # any moment between two messages

        if case.unsent:
            await _leave_unsent(lab, clients, case.unsent)
        began = loop.time()
        await case.play(lab)
        ended = loop.time()
        usable = began if case.at_once else ended
        await _until(lab, usable + patience, lambda: all(_next(client, lab, usable) for client in clients))
        stop = max(loop.time(), usable + 2.0)
        await _until(lab, stop + _SETTLE, lambda: not any(_missing(client, lab, stop) for client in clients))
        for client in clients:
            _write_timeline(folder / f"{client.name}.txt", client, lab, began=began, usable=usable)
        return [_figures(case, client, lab, began=began, ended=ended, usable=usable, stop=stop) for client in clients]


async def _leave_unsent(lab: Lab, clients: Sequence[Client], size: int) -> None:
    """Have each client that can hand over so much into a black hole, just before the fault."""
    await lab.net.air(lab.net.modem, loss=1.0)
    for client in clients:
        if client.burst is not None:
            await client.burst(size)
    await asyncio.sleep(_WRITTEN)


async def _until(lab: Lab, deadline: float, condition: Callable[[], object]) -> None:
    within = max(0.1, deadline - asyncio.get_running_loop().time())
    with contextlib.suppress(TimeoutError):
        await lab.broker.until(condition, within=within, story=lambda: "")


def _next(client: Client, lab: Lab, usable: float) -> float:
    """When the first number that is new arrived on the path that is usable; 0 for not yet.

    What was in the air before arrives within half a round trip.
    """
    first = usable + HALF + _MARGIN
    return min((when for when in lab.broker.arrived.get(client.name, {}).values() if when >= first), default=0.0)


def _missing(client: Client, lab: Lab, stop: float) -> set[int]:
    sent = {number for number, when in client.sent.items() if when <= stop}
    return sent - lab.broker.arrived.get(client.name, {}).keys()


def _figures(
    case: Case, client: Client, lab: Lab, *, began: float, ended: float, usable: float, stop: float
) -> Figures:
    when = _next(client, lab, usable)
    downs = [down for down in client.downs if down >= began]
    # Of a fault that lasts, what happens in it counts.
    last = ended if case.target.disconnects is not None else stop
    return Figures(
        case=case.name,
        contender=client.contender,
        next=when + HALF - usable if when else math.inf,
        noticed=downs[0] - began if downs else None,
        disconnects=sum(down <= last for down in downs),
        minutes=(last - began) / 60,
        lost=len(_missing(client, lab, stop)),
        sent=sum(sent <= stop for sent in client.sent.values()),
    )


def _write_timeline(file: Path, client: Client, lab: Lab, *, began: float, usable: float) -> None:
    """Write all that happened, in seconds from the moment when the path was usable."""
    moments = [
        (began, "--- the fault begins"),
        (usable, "--- the path is usable"),
        *client.log,
        *((when, f"handed over {number}") for number, when in client.sent.items()),
        *((when, f"arrived {number}") for number, when in lab.broker.arrived.get(client.name, {}).items()),
    ]
    lines = (f"{when - usable:+9.3f} {what}\n" for when, what in sorted(moments))
    file.write_text("".join(lines), encoding="utf-8")


def _counts(clients: Sequence[Client], lab: Lab) -> str:
    return ", ".join(f"{client.name} {len(lab.broker.arrived.get(client.name, ()))}" for client in clients)

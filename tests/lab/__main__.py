"""python -m tests.lab: plays a link's faults with the agent and its peers, and prints what became of each.

All contenders are in the same fault at once. Whoever does not come back within the patience is told as `never`.
"""

import argparse
import asyncio
import contextlib
import io
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from tests.lab.broker import Broker
from tests.lab.contenders import AGENTS, CONTENDERS, Contender
from tests.lab.faults import Lab
from tests.lab.matrix import CASES, NOT_BY_DEFAULT, Case
from tests.lab.measure import Clients, Figures, measure
from tests.lab.namespaces import NetError, why_not
from tests.lab.net import net
from tests.lab.table import Row, document, rows, seconds, table
from tests.support.child import ChildEndedError

_FAILED, _UNAVAILABLE, _SOFTWARE, _INTERRUPTED, _TERMINATED = 1, 69, 70, 130, 143


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="lab", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    faults = [name for name in CASES if name not in NOT_BY_DEFAULT]
    parser.add_argument("--faults", type=_names(CASES), default=faults, metavar="NAME,...",
                        help=f"of {', '.join(CASES)} (default: all but {', '.join(NOT_BY_DEFAULT)})")  # fmt: skip
    parser.add_argument("--contenders", type=_names(CONTENDERS), default=list(CONTENDERS), metavar="NAME,...",
                        help=f"of {', '.join(CONTENDERS)} (default: all)")  # fmt: skip
    parser.add_argument("--clients", type=int, default=1, metavar="N", help="so many of roamd at once (default 1)")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="how often each fault is played (default 3)")
    parser.add_argument("--patience", type=float, default=180.0, metavar="SECONDS",
                        help="how long to wait for each client's return (default 180)")  # fmt: skip
    parser.add_argument("--keep", type=Path, metavar="DIR",
                        help="keep each client's timeline and files in a new folder, of a short path")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of all clients")
    given = parser.parse_args()
    if given.keep and given.keep.exists():
        parser.error(f"{given.keep} is there already")
    return given


def _names(known: Collection[str]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        if unknown := [name for name in text.split(",") if name not in known]:
            raise argparse.ArgumentTypeError(f"not known: {', '.join(unknown)}")
        return text.split(",")

    return names


async def _play(given: argparse.Namespace, console: Console, asked: Sequence[Clients], done: list[Figures]) -> None:
    with tempfile.TemporaryDirectory(prefix="roamd-lab-") as name:
        folder = Path(name)
        kept: Path = given.keep.resolve() if given.keep else folder
        async with net(folder) as network:
            lab = Lab(net=network, broker=Broker(network.core, folder))
            for case in (CASES[name] for name in given.faults):
                for time_ in range(1, given.repeat + 1):
                    began = time.monotonic()
                    figures = await measure(
                        lab, case, asked, kept / case.name / str(time_), patience=given.patience
                    )  # fmt: skip
                    done += figures
                    _tell(console, case, time_, given.repeat, figures, time.monotonic() - began)


def _tell(console: Console, case: Case, time_: int, of: int, figures: Sequence[Figures], took: float) -> None:
    told = ", ".join(f"{one.contender} {seconds(one.next)}" + f", {one.lost} lost" * bool(one.lost) for one in figures)
    console.print(f"{case.name} {time_}/{of}, {took:.0f} s: {told}", style="dim", highlight=False)


def _asked(given: argparse.Namespace, console: Console) -> list[Clients]:
    asked = []
    for contender in (CONTENDERS[name] for name in given.contenders):
        if contender.skip:
            console.print(f"{contender.name} is skipped: {contender.skip}", highlight=False)
        else:
            asked.append(Clients(contender=contender, count=_count(given, contender)))
    return asked


def _count(given: argparse.Namespace, contender: Contender) -> int:
    return int(given.clients) if contender.name in AGENTS else 1


def _run(given: argparse.Namespace, console: Console) -> int:
    done: list[Figures] = []
    code = 0
    log = io.StringIO()
    load = _load()
    try:
        with contextlib.redirect_stdout(log):
            asyncio.run(_play(given, console, _asked(given, console), done))
    except* (NetError, ChildEndedError, TimeoutError, ConnectionError) as group:
        console.print(log.getvalue()[-20_000:], markup=False, highlight=False)
        for exc in _leaves(group):
            console.print(f"lab: {type(exc).__name__}: {exc}", markup=False, highlight=False)
        code = _SOFTWARE
    except* KeyboardInterrupt:
        code = _INTERRUPTED  # what is measured by then is shown
    measured: list[Row] = rows(done)
    if measured:
        console.print(table(measured))
    console.print(f"load before {load}, after {_load()}", highlight=False)
    if given.json:
        given.json.write_text(document(measured), encoding="utf-8")
    missed = any(row.misses() for row in measured if row.contender in AGENTS)
    return code or (_FAILED if missed else 0)


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[BaseException]:
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            yield from _leaves(exc)
        else:
            yield exc


def _load() -> str:
    return " ".join(f"{load:.2f}" for load in os.getloadavg())


def main() -> int:
    """Play what is asked for; returns 1 where the agent misses a target."""
    given = _arguments()
    console = Console(width=None if sys.stdout.isatty() else 160, file=sys.stdout)
    if reason := why_not():
        console.print(f"lab: {reason}", markup=False)
        return _UNAVAILABLE
    # So that everything that was started is ended, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    return _run(given, console)


if __name__ == "__main__":
    sys.exit(main())

"""Many courses, or many power cuts, a line each: `python -m tests.chaos --seeds 50`, `... --power-cuts 50`."""

import argparse
import asyncio
import contextlib
import io
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.chaos.course import draw
from tests.chaos.judge import judge
from tests.chaos.play import Player
from tests.chaos.power import cut_power

Run = Callable[[int, Path], Awaitable[tuple[str, list[str]]]]
"""Does one seed in a folder; returns a line about it, and what is wrong."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seeds", type=int, metavar="N", help="play so many random courses")
    what.add_argument("--power-cuts", type=int, metavar="N", help="cut the power so many times (root)")
    parser.add_argument("--first", type=int, default=1, metavar="SEED", help="the first seed (default: 1)")
    arguments = parser.parse_args()
    run, count = (_course, arguments.seeds) if arguments.seeds else (_cut, arguments.power_cuts)
    failed = [seed for seed in range(arguments.first, arguments.first + count) if not _done(seed, run)]
    _tell(f"{count} seeds, {len(failed)} failed{': ' * bool(failed)}{', '.join(map(str, failed))}")
    return 1 if failed else 0


async def _course(seed: int, folder: Path) -> tuple[str, list[str]]:
    player = Player(draw(seed), folder)
    outcome = await player.play()
    findings = judge(outcome)
    return str(outcome), [*findings, player.story()] if findings else []


async def _cut(seed: int, folder: Path) -> tuple[str, list[str]]:
    cut = await cut_power(seed, folder)
    return str(cut), cut.failures()


def _done(seed: int, run: Run) -> bool:
    began, printed = time.monotonic(), io.StringIO()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, contextlib.redirect_stdout(printed):
        try:
            line, findings = asyncio.run(run(seed, Path(folder)))
        except (Exception, pytest.skip.Exception, pytest.fail.Exception) as exc:  # noqa: BLE001  it is this seed's result
            line, findings = f"{type(exc).__name__}: {exc}", [printed.getvalue(), traceback.format_exc()]
    _tell(f"seed {seed}, {time.monotonic() - began:.1f} s, {'FAILED' if findings else 'ok'}: {line}", *findings)
    return not findings


def _tell(*lines: str) -> None:
    sys.stdout.write("\n".join((*lines, "")))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

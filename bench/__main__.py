"""python -m bench: measures the agent and its peers on this machine; nothing leaves it."""

import argparse
import json
import os
import platform
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from bench import drain, idle, offline, slow_fsync, steady
from bench.options import Options, options
from bench.processes import BenchError, program
from bench.results import Results
from bench.table import show
from bench.targets import Judged, judge
from bench.tools import Tools, build, on_disk

_BENCHMARKS: dict[str, Callable[[Tools, Options, Results], Iterator[str]]] = {
    module.NAME: module.run for module in (steady, drain, offline, idle, slow_fsync)
}
_UNAVAILABLE = 69  # sysexits(3)
_SOFTWARE = 70
_INTERRUPTED = 130
_TERMINATED = 143


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="Measure the agent and its peers on this machine.")
    parser.add_argument("--only", type=_names, default=list(_BENCHMARKS), metavar="NAME,...",
                        help=f"of {', '.join(_BENCHMARKS)}")  # fmt: skip
    parser.add_argument("--repeat", type=int, metavar="N", help="runs of each contender (default 3; with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="short runs, which only show that everything works")
    parser.add_argument("--full", action="store_true", help="drain a million rows as well")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures of all runs")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), metavar="DIR",
                        help="where files go; on the disk that is to be measured (default %(default)s)")  # fmt: skip
    return parser.parse_args()


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in _BENCHMARKS]:
        raise argparse.ArgumentTypeError(f"no such benchmark: {', '.join(unknown)}")
    return names


def _machine() -> dict[str, str]:
    broker = subprocess.run(
        [program("mosquitto", package="mosquitto"), "-h"], text=True, capture_output=True, check=False
    )  # fmt: skip
    return {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "mosquitto": broker.stdout.partition("\n")[0].removeprefix("mosquitto version "),
        "kernel": platform.release(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load before": _load(),
    }


def _load() -> str:
    return " ".join(f"{load:.2f}" for load in os.getloadavg())


def _run(given: argparse.Namespace, console: Console) -> int:
    machine = _machine()
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()), highlight=False)
    if not on_disk(given.folder.resolve()):
        console.print(f"{given.folder} is kept in memory: the disk's figures say nothing; see --folder")
    asked = options(repeat=given.repeat or (1 if given.quick else 3), quick=given.quick, full=given.full)
    results = Results()
    code = 0
    with tempfile.TemporaryDirectory(prefix="roamd-bench-", dir=given.folder) as folder:
        tools = build(Path(folder))
        try:
            for name in given.only:
                for line in _BENCHMARKS[name](tools, asked, results):
                    console.print(f"{name}: {line}", style="dim", highlight=False)
        except (BenchError, TimeoutError) as exc:
            console.print(f"bench: {name} failed: {exc}", markup=False)
            code = _SOFTWARE
    machine["load after"] = _load()
    judged = list(judge(results))
    show(console, results, judged)
    console.print(f"load before {machine['load before']}, after {machine['load after']}", highlight=False)
    if given.json:
        given.json.write_text(_document(machine, results, judged), encoding="utf-8")
    return code


def _document(machine: dict[str, str], results: Results, judged: list[Judged]) -> str:
    runs = [
        {"benchmark": benchmark, "case": case, "contender": contender, "runs": figures}
        for (benchmark, case, contender), figures in results.runs.items()
    ]
    targets = [asdict(one) | {"met": one.met} for one in judged]
    skipped = [
        {"benchmark": benchmark, "contender": contender, "why": why}
        for (benchmark, contender), why in results.skipped.items()
    ]
    return json.dumps({"machine": machine, "runs": runs, "skipped": skipped, "targets": targets}, indent=1) + "\n"


def main() -> int:
    """Run what is asked for, and return the exit code."""
    given = _arguments()
    console = Console(width=None if sys.stdout.isatty() else 160)
    # So that everything that was started is ended and removed then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    try:
        return _run(given, console)
    except BenchError as exc:
        console.print(f"bench: {exc}", markup=False)
        return _UNAVAILABLE
    except KeyboardInterrupt:
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())

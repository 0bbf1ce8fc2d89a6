"""The tables."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from bench import broker, drain, idle, offline, slow_fsync, steady
from bench.contenders import BRIDGE, STOCK_GMQTT
from bench.results import Key, Results
from bench.targets import Judged


@dataclass(frozen=True, slots=True)
class _Column:
    """A figure, its heading, and how it is written; `against` names the contender whose multiple it is."""

    heading: str
    figure: str
    form: str
    against: str = ""


_FAULTS = (
    _Column("lost", "lost", ",.0f"),
    _Column("doubled", "doubled", ",.0f"),
    _Column("disorder", "disordered", ",.0f"),
)
_COSTS = (
    _Column("MiB", "rss", ".0f"),
    _Column("disk B", "written", ",.0f"),
    _Column("fsyncs", "syncs", ".4f"),
)
_COLUMNS: dict[str, Sequence[_Column]] = {
    steady.NAME: (
        _Column("records/s", "per_s", ",.0f"),
        _Column("x gmqtt", "per_s", ".2f", STOCK_GMQTT),
        _Column("CPU us", "cpu_us", ".1f"),
        _Column("x gmqtt", "cpu_us", ".2f", STOCK_GMQTT),
        *_COSTS,
        _Column("rows", "rows", ",.0f"),
        *_FAULTS,
    ),
    drain.NAME: (
        _Column("records/s", "per_s", ",.0f"),
        _Column("x bridge", "per_s", ".2f", BRIDGE),
        _Column("packets", "packets", ",.0f"),
        _Column("CPU us", "cpu_us", ".1f"),
        *_COSTS,
        _Column("READY s", "ready", ".2f"),
        *_FAULTS,
    ),
    offline.NAME: (*_COSTS, _Column("CPU us", "cpu_us", ".1f"), _Column("lost", "lost", ",.0f")),
    idle.NAME: (
        _Column("CPU %", "cpu_percent", ".3f"),
        _Column("MiB", "rss", ".1f"),
        _Column("disk B an hour", "written_per_hour", ",.0f"),
        _Column("fsyncs an hour", "syncs_per_hour", ",.0f"),
    ),
    slow_fsync.NAME: (
        _Column("records/s", "per_s", ",.0f"),
        _Column("CPU us", "cpu_us", ".1f"),
        _Column("fsyncs", "syncs", ".4f"),
        _Column("longest silence, ms", "gap_ms", ",.0f"),
        *_FAULTS,
    ),
}  # fmt: skip
_NOTES = {
    steady.NAME: f"{broker.DEFAULT_LIMITS}: the broker's Receive Maximum is 20. CPU, disk and fsyncs are per record.",
    drain.NAME: "Disk and fsyncs are per record, from the start of the process. MiB is the peak.",
    offline.NAME: "Disk and fsyncs are per record.",
    idle.NAME: "Bytes and fsyncs an hour are extrapolated from the run. The sources read every 10 s.",
    slow_fsync.NAME: f"Fed through the socket; {broker.WIDE_LIMITS}. Silence: a second program's question unanswered.",
}


def show(console: Console, results: Results, judged: Iterable[Judged]) -> None:
    """Print all that was measured, and the targets."""
    for benchmark, columns in _COLUMNS.items():
        rows = list(results.of(benchmark))
        if not rows:
            continue
        table = Table(
            title=f"{benchmark} (medians of {max(len(runs) for _, _, runs in rows)})", caption=_NOTES[benchmark]
        )
        table.add_column("case")
        table.add_column("who")
        for column in columns:
            table.add_column(column.heading, justify="right")
        before = rows[0][0]
        for case, contender, _ in rows:
            if case != before:
                table.add_section()
                before = case
            key = (benchmark, case, contender)
            table.add_row(case, contender, *(_cell(results, key, column) for column in columns))
        console.print(table)
    for (benchmark, contender), why in results.skipped.items():
        console.print(f"{benchmark}: {contender} was skipped: {why}")
    console.print(_targets(judged))


def _cell(results: Results, key: Key, column: _Column) -> str:
    if column.against:
        value = results.ratio(key, (key[0], key[1], column.against), column.figure)
    else:
        value = results.median(key, column.figure)
    return "" if value is None else format(value, column.form)


def _targets(judged: Iterable[Judged]) -> Table:
    table = Table(title="targets")
    table.add_column("figure")
    for heading in ("is", "target", "is / target", "met"):
        table.add_column(heading, justify="right")
    words = {True: "[green]yes[/]", False: "[red]no[/]", None: "not measured"}
    for one in judged:
        sign = ">=" if one.at_least else "<="
        table.add_row(
            one.text,
            "" if one.value is None else f"{one.value:.3g} {one.unit}",
            f"{sign} {one.limit:g} {one.unit}",
            "" if one.ratio is None else f"{one.ratio:.2f}",
            words[one.met],
        )
    return table

"""What the figures have to be."""

from collections.abc import Iterator
from dataclasses import dataclass

from bench import broker, drain, idle, offline, slow_fsync, steady
from bench.contenders import AGENT, BRIDGE, STOCK_GMQTT, Contender, in_process, through_socket
from bench.results import Key, Results

_COMPARED_ROWS = 100_000
_MOST_ROWS = 1_000_000
_FAULTS = ("lost", "doubled", "disordered")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A figure beside its target; `value` is None where it was not measured."""

    text: str
    value: float | None
    limit: float
    at_least: bool
    unit: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met."""
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def ratio(self) -> float | None:
        """The figure as a multiple of its target."""
        return None if self.value is None or not self.limit else self.value / self.limit


def _least(text: str, value: float | None, limit: float, unit: str = "") -> Judged:
    return Judged(text=text, value=value, limit=limit, at_least=True, unit=unit)


def _most(text: str, value: float | None, limit: float, unit: str = "") -> Judged:
    return Judged(text=text, value=value, limit=limit, at_least=False, unit=unit)


def judge(results: Results) -> Iterator[Judged]:
    """Return each target whose benchmark was run."""
    benchmarks = {key[0] for key in results.runs}
    if steady.NAME in benchmarks:
        for limits in broker.LIMITS:
            yield from _steady(results, limits)
        ours = {contender.name for contender in steady.CLAIMS}
        stored = {name for name in ours if "stored" in name}
        yield _most("steady, stored: rows written", _sum(results, steady.NAME, stored, "rows"), 0)
        yield _most("steady: lost, doubled or out of order", _sum(results, steady.NAME, ours, *_FAULTS), 0)
    if drain.NAME in benchmarks:
        yield from _drain(results)
    if offline.NAME in benchmarks:
        key = (offline.NAME, offline.CASE, AGENT)
        yield _most("offline: bytes to disk per record", results.median(key, "written"), 700, "B")
        yield _most("offline: fsyncs per record", results.median(key, "syncs"), 0.02)
    if idle.NAME in benchmarks:
        for case, contender, _ in results.of(idle.NAME):
            yield _most("idle: CPU", results.median((idle.NAME, case, contender), "cpu_percent"), 1.0, "% of a core")
    if slow_fsync.NAME in benchmarks:
        stored = through_socket("stored").name
        slow, normal = ((slow_fsync.NAME, stored, speed) for speed in (slow_fsync.SLOW, slow_fsync.NORMAL))
        yield _least("fsyncs 10 ms slower, stored: records/s of normal", results.ratio(slow, normal, "per_s"), 0.9, "x")


def _steady(results: Results, limits: str) -> Iterator[Judged]:
    def against_gmqtt(contender: Contender, figure: str) -> float | None:
        return results.ratio(
            (steady.NAME, limits, contender.name), (steady.NAME, limits, STOCK_GMQTT), figure
        )  # fmt: skip

    stored, synced, batched = in_process("stored"), in_process("synced"), in_process("stored", batch=True)
    yield _least(f"{limits}, stored: records/s of gmqtt's", against_gmqtt(stored, "per_s"), 0.95, "x")
    yield _most(f"{limits}, stored: CPU of gmqtt's", against_gmqtt(stored, "cpu_us"), 1.15, "x")
    yield _least(f"{limits}, synced: records/s of gmqtt's", against_gmqtt(synced, "per_s"), 0.85, "x")
    yield _most(f"{limits}, synced: CPU of gmqtt's", against_gmqtt(synced, "cpu_us"), 1.5, "x")
    yield _most(f"{limits}, stored in batches: CPU of gmqtt's", against_gmqtt(batched, "cpu_us"), 0.4, "x")


def _drain(results: Results) -> Iterator[Judged]:
    for limits in broker.LIMITS:
        case = drain.case(limits, _COMPARED_ROWS)
        ours, theirs = (drain.NAME, case, AGENT), (drain.NAME, case, BRIDGE)
        yield _least(f"drain, {limits}: records/s of the bridge's", results.ratio(ours, theirs, "per_s"), 2.5, "x")
    yield _most("drain: lost, doubled or out of order", _sum(results, drain.NAME, {AGENT}, *_FAULTS), 0)
    most = [(drain.NAME, drain.case(limits, _MOST_ROWS), AGENT) for limits in broker.LIMITS]
    yield _most(f"memory at {_MOST_ROWS:,} rows", _largest(results, most, "rss"), 48, "MiB")
    yield _most(f"READY with {_MOST_ROWS:,} rows", _largest(results, most, "ready"), 1, "s")


def _largest(results: Results, keys: list[Key], figure: str) -> float | None:
    found = [value for key in keys if (value := results.median(key, figure)) is not None]
    return max(found, default=None)


def _sum(results: Results, benchmark: str, contenders: set[str], *figures: str) -> float:
    """Add up over all runs what should be 0."""
    return sum(
        run.get(figure, 0)
        for _, contender, runs in results.of(benchmark)
        if contender in contenders
        for run in runs
        for figure in figures
    )

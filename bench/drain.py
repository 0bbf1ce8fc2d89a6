"""`drain`: an outage is over, and what waits on the disk goes out; both start anew with their files."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

from agent import clock
from agent.daemon import _outbox
from agent.model import Sample
from agent.settings import load
from agent.store.database import Database
from bench import broker, contenders, measure, roamd
from bench.measure import Figures
from bench.options import Options
from bench.processes import Process
from bench.records import DEVICE, FIELDS, FILTER, STREAM, TAIL, TOPIC
from bench.results import Results
from bench.tools import Tools

NAME = "drain"
_WITHIN = 300.0
_AT_ONCE = 10_000
_MOST_FOR_BRIDGE = 100_000


def case(limits: str, rows: int) -> str:
    """Return the name of the case."""
    return f"{rows:,} rows, {limits}"


def run(tools: Tools, options: Options, results: Results) -> Iterator[str]:
    """Measure; tells after each run what it has found."""
    for rows in options.rows:
        with measure.folder(tools) as filled:
            asyncio.run(_fill(filled, rows))
            for _ in range(options.repeat):
                for limits in broker.LIMITS:
                    for name, figures in _round(tools, filled, rows, limits):
                        results.add(NAME, case(limits, rows), name, figures)
                        yield f"{case(limits, rows)}, {name}: {figures['per_s']:,.0f}/s"


def _round(tools: Tools, filled: Path, rows: int, limits: str) -> Iterator[tuple[str, Figures]]:
    yield contenders.AGENT, _agent(tools, filled, rows, limits)
    if rows <= _MOST_FOR_BRIDGE:
        yield contenders.BRIDGE, _bridge(tools, rows, limits)


async def _fill(folder: Path, rows: int) -> None:
    """Write an outbox with so many rows, as an agent without a broker does."""
    settings = load(config=roamd.settings_file(folder, 1), environ={}, hostname=DEVICE).settings
    async with Database.open(settings.outbox.path) as database:
        outbox = await _outbox(settings, database)
        while rows:
            for _ in range(min(rows, _AT_ONCE)):
                outbox.accept(Sample(stream=STREAM, ts=clock.unix_ms(), taken=clock.monotonic(), fields=FIELDS))
                rows -= 1
            commit = outbox.plan(clock.monotonic(), everything=True)
            await database.write(commit.changes)
            outbox.committed(commit)


def _agent(tools: Tools, filled: Path, rows: int, limits: str) -> Figures:
    with measure.folder(tools) as folder:
        for file in filled.glob("outbox.db*"):
            shutil.copy(file, folder)
        port = broker.free()
        with (
            broker.mosquitto(folder, port, broker.LIMITS[limits]),
            broker.counter(tools, port, folder, topics=FILTER, records=rows) as count,
            roamd.running(roamd.settings_file(folder, port), syncs=tools.syncs) as (process, told),
        ):
            ready = told.wait("READY=1") - process.started
            return {"ready": ready} | _drained(process, count, rows)


def _bridge(tools: Tools, rows: int, limits: str) -> Figures:
    with measure.folder(tools) as folder:
        remote, local = broker.free(), broker.free()
        settings = broker.bridge_settings(folder, remote)
        with (
            broker.mosquitto(folder, local, settings, name="bridge"),
            Process("produce", [tools.produce, local, TOPIC, rows, TAIL.decode()], folder=folder) as producer,
        ):
            producer.expect("ready")
            producer.say("go")
            producer.expect("done", within=_WITHIN)
        # It has ended in order, and so has written all of its queue.
        with (
            broker.mosquitto(folder, remote, broker.LIMITS[limits]),
            broker.counter(tools, remote, folder, topics=FILTER, records=rows) as count,
            broker.mosquitto(folder, local, settings, name="bridge", syncs=tools.syncs) as process,
        ):
            return _drained(process, count, rows)


def _drained(process: Process, count: Process, rows: int) -> Figures:
    measure.arrived(count, within=_WITHIN)
    used = process.usage()
    rss = process.memory_mib()
    process.runs(within=measure.LATE)
    return measure.counted(count, rows) | {
        "rss": rss, "cpu_us": used.cpu / rows * 1e6, "written": used.written / rows, "syncs": used.syncs / rows,
    }  # fmt: skip

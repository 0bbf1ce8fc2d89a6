"""`offline`: what a record costs the disk while there is no broker, at 1,000 records a second through the socket."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from bench import broker, contenders, measure, roamd
from bench.measure import Figures
from bench.options import Options
from bench.processes import Process, python
from bench.results import Results
from bench.tools import Tools

NAME = "offline"
RATE = 1_000
CASE = f"{RATE:,} records/s"


def run(tools: Tools, options: Options, results: Results) -> Iterator[str]:
    """Measure; tells after each run what it has found."""
    for _ in range(options.repeat):
        figures = _once(tools, int(RATE * options.offline_for))
        results.add(NAME, CASE, contenders.AGENT, figures)
        yield f"{figures['written']:.0f} bytes and {figures['syncs']:.4f} fsyncs per record"


def _once(tools: Tools, records: int) -> Figures:
    with measure.folder(tools) as folder:
        config = roamd.settings_file(folder, broker.free())
        with roamd.running(config, syncs=tools.syncs) as (process, told):
            told.wait("READY=1")
            feed = python("bench.feed", roamd.socket_path(config), records, "--rate", RATE)
            with Process("feed", feed, folder=folder) as feeder:
                feeder.expect("ready")
                before = process.usage()
                feeder.say("go")
                feeder.expect("done")
                after = process.usage()
            rss = process.memory_mib()
        return measure.costs(before, after, records) | {"rss": rss, "lost": records - _waiting(folder / "outbox.db")}


def _waiting(outbox: Path) -> int:
    with closing(sqlite3.connect(outbox)) as database:
        return int(database.execute("SELECT count(*) FROM outbox WHERE seq > 0").fetchone()[0])

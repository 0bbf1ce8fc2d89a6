"""One run of one contender: from the first record to the last at the subscriber, and what it cost."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import broker
from bench.contenders import Contender, Job
from bench.processes import Process, Usage
from bench.records import FILTER
from bench.tools import Tools

Figures = dict[str, float]
"""What one run found, by name.

`per_s`: records a second at the subscriber. `cpu_us`, `written` (bytes) and `syncs` are per record. `rss`: peak, MiB.
`lost`, `doubled`, `disordered`: records, as the subscriber saw them. `rows`: written to the outbox.
"""

LATE = 0.3
"""Seconds in which a record that is sent twice would come again."""


@contextmanager
def folder(tools: Tools) -> Iterator[Path]:
    """Make a folder for one run."""
    with tempfile.TemporaryDirectory(dir=tools.folder) as name:
        yield Path(name)


def steady(
    tools: Tools, contender: Contender, *, limits: str, records: int, sync_delay_us: int = 0, within: float = 180.0
) -> Figures:
    """Have the contender send the records, with a broker of its own."""
    records = max(100, int(records * contender.part))
    with folder(tools) as place:
        port = broker.free()
        with (
            broker.mosquitto(place, port, broker.LIMITS[limits]),
            broker.counter(tools, port, place, topics=FILTER, records=records) as count,
            contender.start(
                Job(tools=tools, folder=place, port=port, records=records, sync_delay_us=sync_delay_us)
            ) as running,
        ):
            before = running.process.usage()
            running.go()
            arrived(count, within=within)
            after = running.process.usage()
            rss = running.process.memory_mib()
            running.process.runs(within=LATE)
            figures = counted(count, records) | costs(before, after, records) | {"rss": rss}
            return figures | running.end()


def arrived(count: Process, *, within: float) -> bool:
    """Wait until all records have come; False when they have not within this time."""
    try:
        count.expect("complete", within=within)
    except TimeoutError:
        return False
    return True


def counted(count: Process, records: int) -> Figures:
    """End the counter, and return what it has counted."""
    count.hang_up()
    said = json.loads(count.expect("end"))
    lasted = said["last"] - said["first"]
    return {
        "per_s": said["distinct"] / lasted if lasted > 0 else 0.0,
        "lost": records - said["distinct"],
        "doubled": said["doubled"],
        "disordered": said["disordered"],
        "packets": said["packets"],
        "first": said["first"],
    }


def costs(before: Usage, after: Usage, records: int) -> Figures:
    """Return what was used, per record."""
    return {
        "cpu_us": (after.cpu - before.cpu) / records * 1e6,
        "written": (after.written - before.written) / records,
        "syncs": (after.syncs - before.syncs) / records,
    }

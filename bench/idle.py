"""`idle`: what the agent costs at its default settings, with nothing but its own sources."""

import time
from collections.abc import Iterator

from bench import broker, contenders, measure, roamd
from bench.measure import Figures
from bench.options import Options
from bench.results import Results
from bench.tools import Tools

NAME = "idle"
_SETTLED = 5.0
_HOUR = 3600.0


def case(seconds: float) -> str:
    """Return the name of the case."""
    return f"default settings, {seconds:g} s"


def run(tools: Tools, options: Options, results: Results) -> Iterator[str]:
    """Measure; tells after each run what it has found."""
    for _ in range(options.repeat):
        figures = _once(tools, options.idle_for)
        results.add(NAME, case(options.idle_for), contenders.AGENT, figures)
        yield f"{figures['cpu_percent']:.2f} % of a core, {figures['rss']:.1f} MiB"


def _once(tools: Tools, seconds: float) -> Figures:
    with measure.folder(tools) as folder:
        port = broker.free()
        with (
            broker.mosquitto(folder, port),
            roamd.running(roamd.default_settings_file(folder, port), syncs=tools.syncs) as (process, told),
        ):
            told.wait("STATUS=up", "READY=1")
            process.runs(within=_SETTLED)
            before, begun = process.usage(), time.monotonic()
            process.runs(within=seconds)
            after, lasted = process.usage(), time.monotonic() - begun
            return {
                "cpu_percent": (after.cpu - before.cpu) / lasted * 100,
                "rss": process.memory_mib("VmRSS"),
                "written_per_hour": (after.written - before.written) / lasted * _HOUR,
                "syncs_per_hour": (after.syncs - before.syncs) / lasted * _HOUR,
            }

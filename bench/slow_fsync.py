"""`slow-fsync`: a disk whose syncs take 10 ms longer, as an SD card's do, while the link is up."""

from collections.abc import Iterator
from contextlib import contextmanager

from bench import broker, contenders, measure
from bench.contenders import Contender, Job, Running
from bench.options import Options
from bench.processes import Process, python
from bench.results import Results
from bench.roamd import SOCKET_NAME
from bench.tools import Tools

NAME = "slow-fsync"
NORMAL, SLOW = "normal", "10 ms slower"
_DELAYS_US = {NORMAL: 0, SLOW: 10_000}


def run(tools: Tools, options: Options, results: Results) -> Iterator[str]:
    """Measure; tells after each run what it has found."""
    for _ in range(options.repeat):
        for delivery in ("stored", "synced"):
            for speed, delay in _DELAYS_US.items():
                contender = _probed(contenders.through_socket(delivery))
                figures = measure.steady(
                    tools, contender, limits=broker.WIDE_LIMITS, records=options.records, sync_delay_us=delay
                )
                results.add(NAME, contender.name, speed, figures)
                yield f"{contender.name}, {speed}: {figures['per_s']:,.0f}/s, gap {figures['gap_ms']:.0f} ms"


def _probed(contender: Contender) -> Contender:
    """Return the contender with a second program on its socket, which looks how long answers take."""

    @contextmanager
    def start(job: Job) -> Iterator[Running]:
        with contender.start(job) as running:
            probe = python("bench.probe", job.folder / SOCKET_NAME)
            with Process("probe", probe, folder=job.folder) as prober:
                prober.expect("ready")

                def end() -> dict[str, float]:
                    prober.hang_up()
                    return running.end() | {"gap_ms": float(prober.expect("gap"))}

                yield Running(process=running.process, go=running.go, end=end)

    return Contender(name=contender.name, start=start)

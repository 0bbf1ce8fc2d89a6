"""`steady`: what reaches the subscriber, and what it costs, while the link is up and the source is faster than it."""

from collections.abc import Iterator, Sequence

from bench import broker, contenders, measure
from bench.contenders import Contender
from bench.options import Options
from bench.results import Results
from bench.tools import Tools

NAME = "steady"
CLAIMS = (
    contenders.in_process("stored"),
    contenders.in_process("synced"),
    contenders.in_process("stored", batch=True),
    contenders.through_socket("stored"),
    contenders.through_socket("synced"),
    contenders.through_socket("stored", batch=True),
)


def field(tools: Tools) -> Sequence[Contender]:
    """Return all contenders, in the order in which they take turns."""
    return (
        contenders.ceiling(),
        contenders.stock_gmqtt(),
        contenders.stock_gmqtt_encoding(),
        *CLAIMS,
        contenders.bridge(),
        contenders.paho_c(tools),
        contenders.paho_sqlite(),
    )


def run(tools: Tools, options: Options, results: Results) -> Iterator[str]:
    """Measure; tells after each run what it has found."""
    everybody = field(tools)
    for contender in everybody:
        if contender.skip:
            results.skip(NAME, contender.name, contender.skip)
    for _ in range(options.repeat):
        for limits in broker.LIMITS:
            for contender in everybody:
                if contender.skip:
                    continue
                figures = measure.steady(tools, contender, limits=limits, records=options.records)
                results.add(NAME, limits, contender.name, figures)
                yield f"{limits}, {contender.name}: {figures['per_s']:,.0f}/s, {figures['cpu_us']:.1f} us"

import psutil

from agent import clock
from agent.errors import AbsentError
from agent.model import Value
from agent.sources.rates import Rates
from agent.sources.source import Field, Source

_TOTALS = {"rx_errors": "errin", "tx_errors": "errout", "rx_dropped": "dropin", "tx_dropped": "dropout"}
_RATES = {
    "rx_bytes_per_s": "bytes_recv",
    "tx_bytes_per_s": "bytes_sent",
    "rx_packets_per_s": "packets_recv",
    "tx_packets_per_s": "packets_sent",
}


class Network(Source):
    """Traffic and errors of each network interface but loopback (the kernel's networking/statistics)."""

    fields = (
        Field("{interface}_up", "", "whether it is up and has a carrier"),
        Field("{interface}_rx_bytes_per_s", "B/s", "received since the last reading"),
        Field("{interface}_tx_bytes_per_s", "B/s", "sent since the last reading"),
        Field("{interface}_rx_packets_per_s", "1/s", "packets received since the last reading"),
        Field("{interface}_tx_packets_per_s", "1/s", "packets sent since the last reading"),
        Field("{interface}_rx_errors", "", "bad packets received since the interface exists"),
        Field("{interface}_tx_errors", "", "packets that could not be sent since the interface exists"),
        Field("{interface}_rx_dropped", "", "packets received and dropped since the interface exists"),
        Field("{interface}_tx_dropped", "", "packets dropped instead of sent since the interface exists"),
    )
    failures = (psutil.Error,)

    def __init__(self) -> None:
        self._rates = Rates()

    def _read(self) -> dict[str, Value]:
        states = psutil.net_if_stats()
        counts = psutil.net_io_counters(pernic=True, nowrap=False)
        values: dict[str, Value] = {}
        counters: dict[str, float] = {}
        for name, state in states.items():
            if "loopback" in state.flags.split(",") or name not in counts:
                continue
            values[f"{name}_up"] = state.isup
            values |= {f"{name}_{ours}": getattr(counts[name], theirs) for ours, theirs in _TOTALS.items()}
            counters |= {f"{name}_{ours}": getattr(counts[name], theirs) for ours, theirs in _RATES.items()}
        if not values:
            raise AbsentError("there is no network interface but loopback")
        return values | self._rates.since_last(counters, clock.monotonic())

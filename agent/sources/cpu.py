import psutil

from agent.model import Value
from agent.sources.source import Field, Source

_Times = tuple[float, float]


class Cpu(Source):
    """How busy the processor is (proc_stat(5), proc_loadavg(5), and the kernel's cpufreq)."""

    fields = (
        Field("cpu_percent", "%", "time that all cores together were busy since the last reading"),
        Field("cpu{core}_percent", "%", "the same of one core, counted from 0"),
        Field("cpu_mhz", "MHz", "current frequency, the mean of the cores; absent where the kernel does not tell"),
        Field("load_1m", "", "mean number of processes that run or wait to, over 1 minute"),
        Field("load_5m", "", "the same over 5 minutes"),
        Field("load_15m", "", "the same over 15 minutes"),
    )
    failures = (psutil.Error,)

    def __init__(self) -> None:
        self._before: list[_Times] = []

    def _read(self) -> dict[str, Value]:
        values: dict[str, Value] = {}
        before, self._before = self._before, [_times(core) for core in psutil.cpu_times(percpu=True)]
        if len(before) == len(self._before):
            cores = [(now[0] - then[0], now[1] - then[1]) for now, then in zip(self._before, before, strict=True)]
            busy, total = (sum(part) for part in zip(*cores, strict=True))
            if total > 0:
                values["cpu_percent"] = _percent(busy, total)
                values |= {f"cpu{n}_percent": _percent(*core) for n, core in enumerate(cores) if core[1] > 0}
        if frequency := psutil.cpu_freq():
            values["cpu_mhz"] = round(frequency.current)
        load = (round(value, 2) for value in psutil.getloadavg())
        return values | dict(zip(("load_1m", "load_5m", "load_15m"), load, strict=True))


def _times(core: tuple[float, ...]) -> _Times:
    """Return the seconds that a core was busy, and all that it counted."""
    user, nice, system, idle, iowait, irq, softirq, steal = core[:8]  # guest time is in user already
    busy = user + nice + system + irq + softirq + steal
    return busy, busy + idle + iowait


def _percent(busy: float, total: float) -> float:
    # The kernel's counts of idle time may step back a little (proc_stat(5)).
    return round(min(100.0, max(0.0, 100 * busy / total)), 1)

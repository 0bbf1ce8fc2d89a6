from pathlib import Path

import psutil

from agent import clock
from agent.model import Value
from agent.sources.source import Field, Source

_UNDER_VOLTAGE = 0x1
_FREQUENCY_CAPPED = 0x2
_THROTTLED = 0x4
_SOFT_LIMIT = 0x8
_SINCE_BOOT = 16  # the same four bits again, for whether it ever happened since boot


class Host(Source):
    """The machine as a whole: how long it runs, what runs on it, and whether it is held back.

    Throttling is told by the firmware of a Raspberry Pi ("vcgencmd get_throttled" in its documentation), and by the
    kernel on x86 (thermal_throttle in its ABI/testing/sysfs-devices-system-cpu).
    """

    fields = (
        Field("uptime_s", "s", "time since the machine started"),
        Field("boot_ts", "ms", "when it started, Unix time; it moves with the clock"),
        Field("processes", "", "number of processes that the agent can see"),
        Field("under_voltage", "", "Raspberry Pi: the supply is below 4.63 V now"),
        Field("throttled", "", "Raspberry Pi: the processor is slowed down now, for voltage or temperature"),
        Field("throttled_since_boot", "", "Raspberry Pi: any of these happened since the machine started"),
        Field("throttle_count", "", "x86: how often the processor got too hot since the machine started"),
    )
    failures = (psutil.Error,)

    def __init__(self, sys: Path = Path("/sys")) -> None:
        self._firmware = sys / "devices/platform/soc/soc:firmware/get_throttled"
        self._package = sys / "devices/system/cpu/cpu0/thermal_throttle/package_throttle_count"

    def _read(self) -> dict[str, Value]:
        boot = psutil.boot_time()
        values: dict[str, Value] = {
            "uptime_s": round(clock.since_boot()),
            "boot_ts": round(boot * 1000),
            "processes": len(psutil.pids()),
        }
        if (flags := _number(self._firmware, base=16)) is not None:
            values["under_voltage"] = bool(flags & _UNDER_VOLTAGE)
            values["throttled"] = bool(flags & (_FREQUENCY_CAPPED | _THROTTLED | _SOFT_LIMIT))
            values["throttled_since_boot"] = flags >> _SINCE_BOOT != 0
        if (count := _number(self._package, base=10)) is not None:
            values["throttle_count"] = count
        return values


def _number(file: Path, *, base: int) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"), base)
    except FileNotFoundError:
        return None

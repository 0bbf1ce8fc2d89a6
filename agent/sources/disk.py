from pathlib import Path

import psutil

from agent import clock
from agent.errors import AbsentError
from agent.model import Value
from agent.sources.rates import Rates
from agent.sources.source import Field, Source, slug


class Disk(Source):
    """Space and traffic of mounted block devices (statvfs(3), the kernel's admin-guide/iostats).

    A device that is mounted in several places, as systemd does for its services, counts once: where its path is
    shortest.
    """

    fields = (
        Field("{mount}_percent", "%", "space in use; the mount / is called root, /boot/firmware boot_firmware"),
        Field("{mount}_free_bytes", "B", "space that programs without special rights can have"),
        Field("{mount}_total_bytes", "B", "size of the file system"),
        Field("{mount}_read_bytes_per_s", "B/s", "read from its device since the last reading"),
        Field("{mount}_written_bytes_per_s", "B/s", "written to its device since the last reading"),
    )
    failures = (psutil.Error,)

    def __init__(self) -> None:
        self._rates = Rates()

    def _read(self) -> dict[str, Value]:
        mounts = _mounts()
        if not mounts:
            raise AbsentError("no block device is mounted")
        values: dict[str, Value] = {}
        counters: dict[str, float] = {}
        traffic = psutil.disk_io_counters(perdisk=True, nowrap=False) or {}
        for device, mount in mounts.items():
            name = slug(mount) or "root"
            try:
                usage = psutil.disk_usage(mount)
            except OSError:
                continue  # unmounted meanwhile, or not for our eyes
            values |= {
                f"{name}_percent": usage.percent,
                f"{name}_free_bytes": usage.free,
                f"{name}_total_bytes": usage.total,
            }
            if counts := traffic.get(Path(device).resolve().name):
                counters[f"{name}_read_bytes_per_s"] = counts.read_bytes
                counters[f"{name}_written_bytes_per_s"] = counts.write_bytes
        return values | self._rates.since_last(counters, clock.monotonic())


def _mounts() -> dict[str, str]:
    """Return the shortest mount point of each mounted device."""
    mounts: dict[str, str] = {}
    for part in psutil.disk_partitions(all=False):
        here = mounts.get(part.device)
        if Path(part.mountpoint).is_dir() and (here is None or len(part.mountpoint) < len(here)):
            mounts[part.device] = part.mountpoint
    return mounts

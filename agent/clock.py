"""Time. Monotonic for every timer, wall time only in what is sent."""

import ctypes
import time
from pathlib import Path

_TIMEX = 512  # bytes, more than struct timex has on any machine; zeros only ask
_TIME_ERROR = 5
_TIMESYNC = Path("/run/systemd/timesync/synchronized")  # systemd-timesyncd.service(8); seccomp may forbid the other way
_libc = ctypes.CDLL(None)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def monotonic() -> float:
    """Seconds on CLOCK_MONOTONIC: what the event loop's timers use; it never jumps."""
    return time.monotonic()


def unix_ms() -> int:
    """Wall time in Unix milliseconds. It may jump; nothing is timed or ordered by it."""
    return time.time_ns() // 1_000_000


def is_synced() -> bool:
    """Tell whether something keeps the wall clock right, by the kernel's word (adjtimex(2)), or else by systemd's."""
    answer = _libc.adjtimex(ctypes.create_string_buffer(_TIMEX))
    return _TIMESYNC.exists() if answer < 0 else answer != _TIME_ERROR


def boot_id() -> str:
    """Return the name of this boot of the machine (proc_sys_kernel(5)): monotonic times compare within one only."""
    return _BOOT_ID.read_text(encoding="ascii").strip()


def since_boot() -> float:
    """Seconds since the machine started, suspended time included (CLOCK_BOOTTIME, clock_gettime(2))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)

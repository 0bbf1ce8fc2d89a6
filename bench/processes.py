"""Processes of a benchmark: what they say, what they cost, and their end."""

import mmap
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parent.parent
_SYSTEMD = ("NOTIFY_SOCKET", "INVOCATION_ID", "JOURNAL_STREAM", "STATE_DIRECTORY", "RUNTIME_DIRECTORY",
            "CREDENTIALS_DIRECTORY")  # fmt: skip
_SBIN = "/usr/sbin"
_CPU_CLOCK = 2  # CPUCLOCK_SCHED: clock_getcpuclockid(3) makes a process's clock of this and its number
_KIB = 1024


class BenchError(Exception):
    """The measurement cannot go on; the text is for whoever started it."""


def program(name: str, *, package: str) -> str:
    """Find a program. Raises BenchError with the Debian package that has it."""
    found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", os.defpath), _SBIN)))
    if found is None:
        raise BenchError(f"{name} is missing: apt install {package}")
    return found


def python(module: str, *arguments: object) -> list[str]:
    """Return the command line of a module of ours."""
    return [sys.executable, "-m", module, *map(str, arguments)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a process has used since it started, all its threads together."""

    cpu: float
    """Seconds, user and system."""
    written: int
    """Bytes of pages that it made dirty on block devices (proc_pid_io(5)); the file system's journal is not in it."""
    syncs: int


class Process:
    """A process that ends with the block, by its own number. `syncs` is a library that counts fsync, to be preloaded.

    It talks in lines: `expect` waits for one on its standard output, `say` writes one to its standard input.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        syncs: Path | None = None,
        sync_delay_us: int = 0,
    ) -> None:
        self.name = name
        self.started = 0.0
        self._argv = list(map(str, argv))
        self._log = folder / f"{name}.log"
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("ROAMD_") and k not in _SYSTEMD}
        self._environment.update(environment or {})
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._syncs: mmap.mmap | None = None
        if syncs is not None:
            counter = folder / f"{name}.syncs"
            counter.write_bytes(bytes(mmap.PAGESIZE))
            with counter.open("r+b") as file:
                self._syncs = mmap.mmap(file.fileno(), 0)
            self._environment |= {
                "LD_PRELOAD": str(syncs), "BENCH_SYNCS": str(counter), "BENCH_SYNC_DELAY_US": str(sync_delay_us),
            }  # fmt: skip

    def __enter__(self) -> Self:
        # Should this process be killed, the kernel ends the child too (prctl(2), PR_SET_PDEATHSIG).
        setpriv = shutil.which("setpriv")
        prefix = [setpriv, "--pdeathsig", "KILL"] if setpriv else []
        self.started = time.monotonic()
        with self._log.open("ab") as log:
            self._popen = subprocess.Popen(
                [*prefix, *self._argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env=self._environment,
                text=True,
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, name=f"reads {self.name}", daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def expect(self, word: str, *, within: float = 60.0) -> str:
        """Wait for the line that begins with `word`, and return its rest. Raises TimeoutError and BenchError."""
        deadline = time.monotonic() + within
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise TimeoutError(f"{self.name} did not say {word!r} within {within:g} s") from None
            if line is None:
                raise BenchError(f"{self.name} ended with {self._popen.wait()}:\n{self.log()}")
            if line.split(" ", 1)[0] == word:
                return line[len(word) :].strip()

    def say(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(line + "\n")
        self._popen.stdin.flush()

    def hang_up(self) -> None:
        """Close its standard input."""
        assert self._popen.stdin is not None
        self._popen.stdin.close()

    def log(self) -> str:
        """Return the end of what it wrote to standard error."""
        return self._log.read_text(errors="replace")[-4000:]

    def runs(self, *, within: float) -> bool:
        """Tell whether it still runs after so many seconds; returns at once when it has ended."""
        try:
            self._popen.wait(timeout=within)
        except subprocess.TimeoutExpired:
            return True
        return False

    def end(self) -> None:
        """Ask it to end, then make it end, and wait until it has."""
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGTERM)
            try:
                self._popen.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait()
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.close()
        self._reader.join()
        self._popen.stdout.close()

    # What it costs.

    def usage(self) -> Usage:
        """Return what it has used until now."""
        pid = self._popen.pid
        io = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines())
        return Usage(
            cpu=time.clock_gettime(~pid << 3 | _CPU_CLOCK),
            written=int(io["write_bytes"]),
            syncs=int.from_bytes(self._syncs[:8], sys.byteorder) if self._syncs else 0,
        )

    def memory_mib(self, figure: str = "VmHWM") -> float:
        """Return its resident memory in MiB: the peak, or with `VmRSS` the present value (proc_pid_status(5))."""
        for line in Path(f"/proc/{self._popen.pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(figure + ":"):
                return int(line.split()[1]) / _KIB
        raise BenchError(f"{self.name} has no {figure} any more:\n{self.log()}")

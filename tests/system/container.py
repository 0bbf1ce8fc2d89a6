"""A Debian that boots: systemd as PID 1 in systemd-nspawn, on an overlay of a root file system."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.system.tools import PATH, ProgramError, checked

_BOOT_WITHIN = 60.0
_LONGEST = 60.0
_INSIDE = ("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8")
# The overlay is mounted in a mount namespace of its own: it is gone when the container is, however that ends.
_START = (
    'mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root" && shift 2 &&'
    ' exec systemd-nspawn "$@"'
)


class Container:
    """One machine of a test: booted, run in, switched off, its plug pulled; its disk is the folder `upper`."""

    def __init__(self, lower: Sequence[Path], folder: Path) -> None:
        self._lower = lower
        self._folder = folder
        self.upper = folder / "upper"
        """What was written: the layer above the root file system."""
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0
        for name in ("upper", "work", "root"):
            (folder / name).mkdir(parents=True)

    def __enter__(self) -> Self:
        self.boot()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._nspawn is not None:
            if kind is not None:
                sys.stdout.write(self.journal())
            self.pull_the_plug()
        # The work folder of an overlay is for root alone, and empty of value.
        shutil.rmtree(self._folder / "work", ignore_errors=True)

    def boot(self) -> None:
        """Boot, and return when systemd has reached its default target."""
        path = self._folder / "notify"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.bind(str(path))
            told.settimeout(_BOOT_WITHIN)
            root = self._folder / "root"
            options = ("-q", "-D", root, "-M", f"roamd-{os.getpid()}", "--boot", "--notify-ready=yes", "--console=pipe")
            alone = ("--private-network", "--register=no", "--keep-unit", "--kill-signal=SIGRTMIN+4")
            shell = ("sh", "-c", _START, "sh", ":".join(map(str, self._lower)), self._folder)
            with (self._folder / "console").open("ab") as console:
                self._nspawn = subprocess.Popen(
                    [
                        *("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"),
                        *(*shell, *options, *alone),
                    ],
                    env={"PATH": PATH, "NOTIFY_SOCKET": str(path)},
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=console,
                    start_new_session=True,
                )
            self._wait_for(told)

    def _wait_for(self, told: socket.socket) -> None:
        ready = False
        while not (ready and self._leader):
            try:
                lines = told.recv(4096).decode().splitlines()
            except TimeoutError:
                raise ProgramError(f"no boot: {(self._folder / 'console').read_text()}") from None
            for line in lines:
                ready = ready or line == "READY=1"
                if line.startswith("X_NSPAWN_LEADER_PID="):
                    self._leader = int(line.partition("=")[2])

    # Ends.

    def shut_down(self) -> None:
        """Switch it off in order."""
        os.kill(self._leader, signal.SIGRTMIN + 4)  # systemd(1): poweroff.target
        self._ended()

    def pull_the_plug(self) -> None:
        """End it at once: all of its processes are killed."""
        os.kill(self._leader, signal.SIGKILL)
        self._ended()

    def _ended(self) -> None:
        assert self._nspawn is not None
        try:
            self._nspawn.wait(_BOOT_WITHIN)
        finally:
            self._nspawn.kill()
            self._nspawn.wait()
            self._nspawn, self._leader = None, 0

    # Work in it.

    def _argv(self, argv: Sequence[str]) -> list[str]:
        return ["nsenter", "-t", str(self._leader), "-a", "--", *_INSIDE, *argv]

    def run(self, *argv: str, within: float = _LONGEST) -> str:
        """Run a program inside as root and return what it said. Raises ProgramError."""
        return checked(self._argv(argv), within=within).rstrip("\n")

    def fails(self, *argv: str) -> str:
        """Run a program that has to fail, and return what it said."""
        try:
            told = self.run(*argv)
        except ProgramError as exc:
            return str(exc)
        raise AssertionError(f"{' '.join(argv)} did not fail: {told}")

    @contextmanager
    def running(self, *argv: str) -> Iterator["Running"]:
        """Run a program inside until the end of the block."""
        program = Running(self._argv(argv))
        try:
            yield program
        finally:
            program.end()

    def write(self, path: str, text: str, *, mode: int = 0o644) -> None:
        file = self.inside(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        file.chmod(mode)

    def read(self, path: str) -> str:
        return self.inside(path).read_text(encoding="utf-8")

    def exists(self, path: str) -> bool:
        return self.inside(path).exists()

    def inside(self, path: str) -> Path:
        """The path of this machine for one of the container's, while that runs."""
        return Path(f"/proc/{self._leader}/root", path.lstrip("/"))

    def copy(self, file: Path) -> str:
        """Copy a file into its /root, and return where it is there."""
        shutil.copy(file, self.inside("/root"))
        return f"/root/{file.name}"

    # The service.

    def install(self, package: Path, *more: str) -> str:
        return self.run(
            "apt-get", "-y", "--no-install-recommends", "--allow-downgrades", "install", self.copy(package), *more
        )

    def property(self, name: str) -> str:
        return self.run("systemctl", "show", "--property", name, "--value", "roamd")

    def journal(self) -> str:
        return self.run("journalctl", "--no-pager", "-o", "short-monotonic", "-u", "roamd") + "\n"

    def line(self, pattern: str, *, within: float = _LONGEST) -> re.Match[str]:
        """Wait for a line of the service's journal of this boot."""
        with self.running("journalctl", "-b", "-f", "-n", "all", "-o", "cat", "-u", "roamd") as journal:
            return journal.line(pattern, within=within)


class Running:
    """A program that runs, and its lines."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.lines: list[str] = []
        self._seen = 0
        self._changed = threading.Condition()
        self._ended = False
        self._program = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._program.stdout is not None
        for raw in self._program.stdout:
            with self._changed:
                self.lines.append(raw.decode(errors="replace").rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def line(self, pattern: str, *, within: float = _LONGEST) -> re.Match[str]:
        """Wait for the next line in which the pattern is found."""
        regex = re.compile(pattern)
        found: list[re.Match[str]] = []

        def looked() -> bool:
            while self._seen < len(self.lines) and not found:
                match = regex.search(self.lines[self._seen])
                self._seen += 1
                if match:
                    found.append(match)
            return bool(found) or self._ended

        with self._changed:
            self._changed.wait_for(looked, within)
        if not found:
            raise AssertionError("\n".join([f"no line {pattern!r} in:", *self.lines[-40:]]))
        return found[0]

    def until(self, count: int, *, within: float = _LONGEST) -> None:
        """Wait until there are that many lines."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.lines) >= count or self._ended, within)
        assert len(self.lines) >= count, "\n".join(["too few lines:", *self.lines[-40:]])

    def end(self) -> None:
        # nsenter(1) has forked: the program is its child, in the same group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._program.pid, signal.SIGKILL)
        self._program.wait()
        self._reader.join()
        assert self._program.stdout is not None
        self._program.stdout.close()

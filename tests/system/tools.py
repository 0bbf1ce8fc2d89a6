"""What the tier needs of this machine."""

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.child import SBIN

ROOT = Path(__file__).resolve().parents[2]
PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), *SBIN))
_PACKAGES = {
    "dh": "debhelper",
    "dpkg-buildpackage": "dpkg-dev",
    "lintian": "lintian",
    "man": "man-db",
    "mmdebstrap": "mmdebstrap",
    "nsenter": "util-linux",
    "qemu-aarch64-static": "qemu-user-static",
    "setpriv": "util-linux",
    "systemd-analyze": "systemd",
    "systemd-nspawn": "systemd-container",
    "unshare": "util-linux",
    "zstd": "zstd",
}


def need(*programs: str, root: bool = False) -> None:
    """Skip the test where one of these is not here; with SYSTEM=require fail it."""
    lacking = sorted({_PACKAGES.get(name, name) for name in programs if shutil.which(name, path=PATH) is None})
    if lacking:
        give_up(f"not installed: apt install {' '.join(lacking)}")
    if root and os.geteuid() != 0:
        give_up("needs root")


def asked_for() -> None:
    """Skip what takes minutes, unless the tier was asked for."""
    if os.environ.get("SYSTEM") not in {"require", "try"}:
        pytest.skip("runs by ./dev system, or with SYSTEM=try")


def give_up(reason: str) -> None:
    say = pytest.fail if os.environ.get("SYSTEM") == "require" else pytest.skip
    say(f"no system tests here: {reason}")


class ProgramError(Exception):
    """A program failed; the text has what it said."""


def run(*argv: str | Path, cwd: Path | None = None, within: float = 300.0, **environment: str) -> str:
    """Run a program of this machine and return what it said. Raises ProgramError."""
    return checked(argv, cwd=cwd, within=within, env={**os.environ, "PATH": PATH, **environment})


def checked(
    argv: Sequence[str | Path], *, within: float, env: dict[str, str] | None = None, cwd: Path | None = None
) -> str:
    program = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        cwd=cwd,
        env=env,
        start_new_session=True,
    )
    with program:
        try:
            said, _ = program.communicate(timeout=within)
        except BaseException:
            os.killpg(program.pid, signal.SIGKILL)  # with what it has forked
            raise
    if program.returncode:
        raise ProgramError(f"{' '.join(map(str, argv))} ended with {program.returncode}:\n{said}")
    return said

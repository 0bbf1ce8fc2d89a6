"""The libraries that a package carries, as one folder for all versions of Python: wheels, downloaded and unpacked.

Between the versions of Python only pydantic-core's compiled module differs, and its name has the version in it.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "packaging/constraints.txt"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_PLATFORMS = ("manylinux2014", "manylinux_2_17", "manylinux_2_28")  # glibc 2.28: Debian 10
_ONLY_SOURCE = ("sdnotify",)
_DROPPED = {"tests", "examples"}  # gmqtt installs its own at the top
_OF_DIST_INFO = {"METADATA", "licenses"}


class WheelError(Exception):
    """The wheels do not fit together, or cannot be had."""


def unpack(architecture: str, into: Path, *, cache: Path) -> None:
    """Put the libraries into the folder, for all of PYTHONS on the architecture (Debian's name)."""
    for wheel in _wheels(architecture, cache):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith("/") or not _is_wanted(PurePosixPath(name)):
                    continue
                file = into / name
                content = archive.read(name)
                if file.exists() and file.read_bytes() != content and ".dist-info/" not in name:
                    raise WheelError(f"{name} of {wheel.name} differs from another wheel's")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
                file.chmod(0o644)


def runtime() -> list[str]:
    """Return what stands under "# Runtime" in the constraints, each as NAME==VERSION."""
    part = CONSTRAINTS.read_text(encoding="utf-8").split("# Runtime\n")[1].split("\n#")[0]
    pins = part.split()
    names = {_plain(pin.split("==")[0]) for pin in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = {_plain(re.split(r"[^A-Za-z0-9_.-]", name)[0]) for name in project["dependencies"]}
    if lacking := asked - names:
        raise WheelError(f"{CONSTRAINTS.name} pins no {', '.join(sorted(lacking))}")
    return pins


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def _is_wanted(path: PurePosixPath) -> bool:
    top = path.parts[0]
    if top.endswith(".dist-info"):
        return path.parts[1] in _OF_DIST_INFO
    return top not in _DROPPED and not top.endswith(".data")


def _wheels(architecture: str, cache: Path) -> list[Path]:
    """Return the wheels, downloaded at the first time for these versions."""
    pins = runtime()
    folder = cache / architecture
    stamp = folder / "wheels.txt"
    wanted = "\n".join([*PYTHONS, *pins])
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for arguments in _downloads(architecture, pins):
            _pip(*arguments, folder=folder)
        stamp.write_text(wanted, encoding="utf-8")
    return sorted(folder.glob("*.whl"))


def _downloads(architecture: str, pins: list[str]) -> Iterator[list[str]]:
    for python in PYTHONS:
        platforms = [f"--platform={platform}_{MACHINES[architecture]}" for platform in _PLATFORMS]
        binary = [pin for pin in pins if not pin.startswith(_ONLY_SOURCE)]
        which = [f"--python-version={python}", "--implementation=cp", "--only-binary=:all:"]
        yield ["download", "--dest=.", *which, *platforms, *binary]
    yield ["wheel", "--wheel-dir=.", *(pin for pin in pins if pin.startswith(_ONLY_SOURCE))]


def _pip(command: str, *arguments: str, folder: Path) -> None:
    # Both variables reach what builds a wheel: the first in old pips, the second in new ones. They are split at spaces.
    with tempfile.TemporaryDirectory() as temporary:
        constraints = shutil.copy(CONSTRAINTS, temporary)
        done = subprocess.run(
            [sys.executable, "-m", "pip", command, "-qq", "--disable-pip-version-check", "--no-deps", *arguments],
            cwd=folder,
            env={**os.environ, "PIP_CONSTRAINT": constraints, "PIP_BUILD_CONSTRAINT": constraints},
            check=False,
        )
    if done.returncode:
        raise WheelError(f"pip {command} failed for {' '.join(arguments)}")

"""Build the Debian packages: one for each architecture, for all versions of Python. `./dev deb` calls this.

The package's tree is put together in build/deb, dpkg-buildpackage makes it a package in dist/, and lintian looks at it.
The same commit gives the same bytes, wherever and whenever it is built.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import manual
import wheels

ROOT = wheels.ROOT
_PACKAGING = ROOT / "packaging"
_NOT_COPIED = shutil.ignore_patterns("__pycache__", "*.pyc")

_COMPRESSION = {"best": "-Zxz", "quick": "-Zxz -z1"}  # lintian does not know Debian's zstd


def main() -> int:
    """Build, and return the exit code."""
    arguments = _parser().parse_args()
    epoch = _epoch()
    try:
        for architecture in arguments.architecture or wheels.MACHINES:
            package = build(
                architecture, into=arguments.into, work=arguments.work, epoch=epoch, compression=arguments.compression
            )
            print(f"{_shown(package)}  {package.stat().st_size / 1e6:.1f} MB")
            if arguments.lintian:
                _run("lintian", "--fail-on=error,warning,info", "--tag-display-limit=0", "--allow-root", package)
    except (wheels.WheelError, subprocess.CalledProcessError) as exc:
        print(f"deb: {exc}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev deb", description="Build the Debian packages.")
    parser.add_argument("architecture", nargs="*", help=f"{' or '.join(wheels.MACHINES)} (default: all)")
    parser.add_argument("--into", type=Path, default=ROOT / "dist", metavar="FOLDER", help="default: dist")
    parser.add_argument("--work", type=Path, default=ROOT / "build/deb", metavar="FOLDER", help="default: build/deb")
    parser.add_argument(
        "--compression", default="best", choices=_COMPRESSION, help="quick: a larger package, for tests"
    )
    parser.add_argument("--no-lintian", dest="lintian", action="store_false", help="do not run lintian")
    return parser


def build(architecture: str, *, into: Path, work: Path, epoch: int, compression: str) -> Path:
    """Build the package of one architecture, and return its file in the folder `into`."""
    version = _version()
    folder = work / architecture / f"roamd-{version}"
    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.mkdir(parents=True)
    _lay_out(folder, architecture, version=version, epoch=epoch)
    for path in folder.rglob("*"):  # dpkg-deb dates only what is newer
        os.utime(path, (epoch, epoch))
    _run(
        *("dpkg-buildpackage", "--no-sign", "--build=binary", f"--host-arch={architecture}", "--no-check-builddeps"),
        cwd=folder,
        environment={
            "SOURCE_DATE_EPOCH": str(epoch),
            "ROAMD_COMPRESSION": _COMPRESSION[compression],
            "DEB_BUILD_OPTIONS": "noautodbgsym nocheck",
            "TZ": "UTC",
            "LC_ALL": "C.UTF-8",
        },
    )
    into.mkdir(parents=True, exist_ok=True)
    package = folder.parent / f"roamd_{version}_{architecture}.deb"
    return Path(shutil.move(package, into / package.name))


def _lay_out(folder: Path, architecture: str, *, version: str, epoch: int) -> None:
    """Put together what debian/rules packs."""
    date = datetime.fromtimestamp(epoch, UTC)
    shutil.copytree(_PACKAGING / "debian", folder / "debian")
    shutil.copytree(ROOT / "config", folder / "config")
    for name in ("README.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, folder)
    (folder / "bin").mkdir()
    shutil.copy(_PACKAGING / "roamd", folder / "bin")
    wheels.unpack(architecture, folder / "tree", cache=ROOT / ".cache/wheels")
    shutil.copytree(ROOT / "agent", folder / "tree/agent", ignore=_NOT_COPIED)
    manual.write(folder / "made", version=version, date=f"{date:%Y-%m-%d}")
    shutil.copytree(ROOT / "systemd/examples", folder / "made/systemd")
    shutil.copy(ROOT / "systemd/roamd.service", folder / "debian")
    (folder / "debian/changelog").write_text(_changelog(version, date), encoding="utf-8")
    # A catalog for journalctl -x goes to usr/lib/systemd/catalog by debian/roamd.install, when there is one.


def _changelog(version: str, date: datetime) -> str:
    control = (_PACKAGING / "debian/control").read_text(encoding="utf-8")
    maintainer = re.search(r"^Maintainer: (.+)$", control, re.MULTILINE)
    assert maintainer is not None
    return (
        f"roamd ({version}) unstable; urgency=medium\n\n"
        "  * What changed stands in /usr/share/doc/roamd/CHANGELOG.md.\n\n"
        f" -- {maintainer[1]}  {format_datetime(date)}\n"
    )


def _version() -> str:
    found = re.search(r'^__version__ = "(.+)"$', (ROOT / "agent/__init__.py").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return found[1]


def _epoch() -> int:
    """Return SOURCE_DATE_EPOCH, or the time of the commit: what dates all that is in the package."""
    if (given := os.environ.get("SOURCE_DATE_EPOCH")) is not None:
        return int(given)
    told = subprocess.run(
        ["git", "-C", ROOT, "log", "-1", "--format=%ct"], capture_output=True, text=True, check=False
    ).stdout
    if not told.strip():
        sys.exit("deb: no git here to ask for the date; set SOURCE_DATE_EPOCH")
    return int(told)


def _run(*argv: str | Path, cwd: Path | None = None, environment: dict[str, str] | None = None) -> None:
    """Run a program, and show what it said only if it fails."""
    done = subprocess.run(
        argv,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        done.check_returncode()


def _shown(path: Path) -> Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


if __name__ == "__main__":
    sys.exit(main())

"""The packages under test, built once; and what becomes of one when a version changes."""

import os
import re
import shutil
import sys
from pathlib import Path

from tests.system.tools import ROOT, run

_VERSION = re.compile(r'__version__ = "(.+)"')


def version() -> str:
    found = _VERSION.search((ROOT / "agent/__init__.py").read_text(encoding="utf-8"))
    assert found is not None
    return found[1]


def build(architecture: str, folder: Path, *, lintian: bool = False) -> Path:
    """Build the package as ./dev deb does, but for the compression, which is a quick one."""
    look = () if lintian else ("--no-lintian",)
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or _commit_time()
    run(
        *(sys.executable, ROOT / "packaging/deb.py", architecture, "--compression=quick", *look),
        *("--into", folder / "dist", "--work", folder / "work"),
        SOURCE_DATE_EPOCH=epoch,
    )
    shutil.rmtree(folder / "work")
    return folder / f"dist/roamd_{version()}_{architecture}.deb"


def _commit_time() -> str:
    return run("git", "-C", ROOT, "log", "-1", "--format=%ct").strip() if (ROOT / ".git").exists() else "1800000000"


class Repack:
    """A package taken apart, to be changed and packed again as another version."""

    def __init__(self, package: Path, folder: Path) -> None:
        self.tree = folder / "tree"
        self._folder = folder
        folder.mkdir()
        run("dpkg-deb", "-R", package, self.tree)

    def as_version(self, version: str) -> Path:
        """Pack it as that version."""
        self._replace(self.tree / "DEBIAN/control", r"^Version: .+$", f"Version: {version}")
        self._replace(self.tree / "usr/lib/roamd/agent/__init__.py", _VERSION.pattern, f'__version__ = "{version}"')
        package = self._folder / f"roamd_{version}_amd64.deb"
        run("dpkg-deb", "--root-owner-group", "-Zzstd", "-z1", "-b", self.tree, package)
        return package

    def _replace(self, file: Path, pattern: str, text: str) -> None:
        changed, count = re.subn(pattern, text, file.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert count == 1
        file.write_text(changed, encoding="utf-8")

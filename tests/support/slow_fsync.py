import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_suffix(".c")


class SlowFsync:
    """A process with this `environment` has a slow disk, which hangs between `hold` and `release`.

    It skips the test where there is no C compiler.
    """

    COMPILER = shutil.which("cc")

    def __init__(self, folder: Path, *, milliseconds: int) -> None:
        if self.COMPILER is None:
            pytest.skip("there is no C compiler (cc): apt install gcc libc6-dev")
        self._library = folder / "slow_fsync.so"
        self._file = folder / "hold_fsync"
        argv = (self.COMPILER, "-shared", "-fPIC", "-Wall", "-o", self._library, SOURCE, "-ldl")
        subprocess.run(argv, check=True)
        self.environment = {
            "LD_PRELOAD": str(self._library),
            "SLOW_FSYNC_MS": str(milliseconds),
            "SLOW_FSYNC_WHILE": str(self._file),
        }

    def is_in(self, pid: int) -> bool:
        """Whether that process has been given it."""
        return str(self._library) in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")

    def hold(self) -> None:
        self._file.touch()

    def release(self) -> None:
        self._file.unlink()

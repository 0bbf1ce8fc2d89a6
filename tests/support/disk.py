"""A file system whose power can be cut: ext4 in a file, on a loop device."""

import fcntl
import os
import struct
import subprocess
from pathlib import Path
from typing import Self

import pytest

from tests.support.child import program

FS_IOC_SHUTDOWN = 0x8004587D
"""_IOR('X', 125, __u32), as ext4 and XFS know it."""
NO_LOG_FLUSH = 2
"""Nothing more reaches the block device, not even the journal."""
SIZE = 64 * 1024 * 1024


class Disk:
    """Mounted at `root` for the time of its block; needs root, and skips the test where there are no loop devices."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "disk"
        self._image = folder / "disk.img"
        self._mounted = False

    def __enter__(self) -> Self:
        self.root.mkdir()
        with self._image.open("wb") as image:
            image.truncate(SIZE)
        _run(program("mkfs.ext4", package="e2fsprogs"), "-q", "-F", self._image)
        try:
            self._mount()
        except subprocess.CalledProcessError as exc:
            _cannot(f"cannot mount a loop device: {exc.stderr.strip()}")
        return self

    def __exit__(self, *_: object) -> None:
        if self._mounted:
            self._unmount()

    def cut_power(self) -> None:
        """What has not reached the block device is lost, and everything that is asked of it fails from now on."""
        directory = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.ioctl(directory, FS_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(directory)

    def power_up(self) -> None:
        """Mount it again, which replays its journal. Nobody may have a file of it open."""
        self._unmount()
        self._mount()

    def _mount(self) -> None:
        # A device of its own each time: mount(8) would take the old one again, while a container that was started
        # meanwhile keeps its file system, the one that was cut off.
        losetup = program("losetup", package="mount")
        device = _run(losetup, "--find", "--show", self._image).strip()
        try:
            _run(program("mount", package="mount"), device, self.root)
        finally:
            _run(losetup, "--detach", device)  # which happens with the last umount
        self._mounted = True

    def _unmount(self) -> None:
        """The kernel lets go of the loop device with the mount."""
        umount = program("umount", package="mount")
        self._mounted = False
        try:
            _run(umount, self.root)
        except subprocess.CalledProcessError:
            _run(umount, "--lazy", self.root)
            raise


def _run(*argv: str | Path) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def _cannot(reason: str) -> None:
    if os.environ.get("CI", "").lower() in {"true", "1"}:
        pytest.fail(reason)
    pytest.skip(reason)

"""Root file systems of Debian, made once and kept in .cache/system."""

import os
import shutil
from pathlib import Path

from tests.system.tools import ROOT, run

CACHE = ROOT / ".cache/system"
_MIRROR = os.environ.get("DEBIAN_MIRROR")
"""Another mirror than Debian's own, for those who have one."""
_BOOTED = "systemd,systemd-sysv,dbus,python3,iproute2,procps,libpam-systemd,ca-certificates"
# What a test installs later lies in apt's cache, so that it needs no network. An empty machine-id is made at each boot.
_HOOKS = (
    'chroot "$1" apt-get clean',
    'chroot "$1" apt-get -qq install -y --download-only --no-install-recommends mosquitto mosquitto-clients',
    'echo uninitialized >"$1/etc/machine-id"',
    'ln -sf /dev/null "$1/etc/systemd/system/systemd-firstboot.service"',
    'echo rover >"$1/etc/hostname"',
    'echo "127.0.0.1 localhost rover" >"$1/etc/hosts"',
)
_ARM64 = "base-files,python3,python3-minimal,libpython3-stdlib,libc6,libgcc-s1,ca-certificates"
_VERSION = "1"  # raised when the lines above change


def booted(suite: str, into: Path) -> Path:
    """Unpack a root that boots, and return its folder."""
    tar = CACHE / f"{suite}-{_VERSION}.tar.zst"
    if not tar.exists():
        hooks = [f"--customize-hook={hook}" for hook in _HOOKS]
        _make(tar, "--variant=minbase", "--skip=cleanup/apt", f"--include={_BOOTED}", *hooks, suite=suite)
    return _unpacked(tar, into / suite)


def arm64(suite: str, into: Path) -> Path:
    """Unpack a root for arm64 in which nothing has run, and return its folder."""
    tar = CACHE / f"{suite}-arm64-{_VERSION}.tar.zst"
    if not tar.exists():
        how = ("--variant=extract", "--arch=arm64", "--skip=check/qemu")
        _make(tar, *how, f"--include={_ARM64}", suite=suite)
    return _unpacked(tar, into / f"{suite}-arm64")


def _make(tar: Path, *options: str, suite: str) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    half = tar.with_name(f"{os.getpid()}-{tar.name}")
    mirror = [_MIRROR] if _MIRROR else []
    try:
        run("mmdebstrap", "--quiet", *options, suite, half, *mirror, within=900)
        half.rename(tar)
    finally:
        half.unlink(missing_ok=True)


def _unpacked(tar: Path, folder: Path) -> Path:
    folder.mkdir()
    run("tar", "--zstd", "-xpf", tar, "-C", folder)
    return folder


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)

"""The package for arm64, run by qemu's user mode: no kernel, no systemd, but its own interpreter and libraries."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.child import Child
from tests.support.mosquitto import Mosquitto
from tests.support.subscriber import Subscriber
from tests.system import packages, roots
from tests.system.tools import PATH, need, run

# /proc, /sys and /dev are mounted in a mount namespace of its own, which ends with the program.
_IN_ROOT = (
    'for folder in proc sys dev; do mkdir -p "$1/$folder" && mount --rbind "/$folder" "$1/$folder" || exit; done;'
    ' shift; exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"'
)
_EMULATOR = "/usr/bin/qemu-aarch64-static"


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def root(request: pytest.FixtureRequest, arm64: Path, work: Path) -> Iterator[Path]:
    need("mmdebstrap", "qemu-aarch64-static", "unshare", "zstd", root=True)
    folder = roots.arm64(request.param, work)
    run("cp", _EMULATOR, folder / "usr/bin")
    # dpkg, too, leaves /lib the link that it is; dpkg-deb -x would not.
    run("sh", "-c", 'dpkg-deb --fsys-tarfile "$1" | tar -xp -C "$2" --keep-directory-symlink', "sh", arm64, folder)
    yield folder
    roots.remove(folder)


def argv(root: Path, *words: str, **environment: str) -> list[str]:
    """The words, as a program for arm64, run inside."""
    variables = [f"{name}={value}" for name, value in environment.items()]
    shell = ("unshare", "--mount", "--propagation", "private", "sh", "-c", _IN_ROOT, "sh")
    return [*shell, str(root), *variables, "chroot", str(root), _EMULATOR, "/usr/bin/python3", "-I", *words]


def test_it_tells_its_version(root: Path) -> None:
    told = run(*argv(root, "/usr/bin/roamd", "--version"))
    assert told == f"roamd {packages.version()}\n"


async def test_it_runs_until_sigterm_and_its_readings_arrive(root: Path, mosquitto: Mosquitto) -> None:
    environment = {
        "ROAMD_DEVICE_ID": "jetson",
        "ROAMD_BROKER__URLS": mosquitto.url,
        "STATE_DIRECTORY": "/var/lib/roamd",
        "RUNTIME_DIRECTORY": "/tmp",
    }
    async with Subscriber(mosquitto.port, topic="device/jetson/#") as subscriber:
        agent = await Child.spawn(
            argv(root, "/usr/bin/roamd", "run", **environment), name="roamd for arm64", env={"PATH": PATH}
        )
        try:
            await agent.line("link up", lines=agent.err, within=90)
            await subscriber.wait_for(lambda messages: any("/telemetry/" in message.topic for message in messages))
            agent.signal(15)
            assert await agent.wait(30) == 0
        finally:
            await agent.end()
    assert re.search("stopped: ", "\n".join(agent.err))

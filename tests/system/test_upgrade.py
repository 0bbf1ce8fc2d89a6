"""What becomes of a robot's data when its package changes."""

import sqlite3
from pathlib import Path

import pytest

from tests.system.container import Container
from tests.system.packages import Repack, version
from tests.system.robot import all_arrive, feed, witness

NEXT = "99.1"
BROKEN = "99.2"


@pytest.fixture(scope="session")
def newer(amd64: Path, work: Path) -> Path:
    return Repack(amd64, work / "newer").as_version(NEXT)


@pytest.fixture(scope="session")
def broken(amd64: Path, work: Path) -> Path:
    """A version that cannot start."""
    repack = Repack(amd64, work / "broken")
    (repack.tree / "usr/lib/roamd/agent/daemon.py").write_text("raise RuntimeError('this version is broken')\n")
    return repack.as_version(BROKEN)


@pytest.fixture
def waiting(machine: Container) -> list[tuple[int, int]]:
    """Events that wait on the machine, whose broker is away."""
    machine.line("link up")
    with witness(machine):
        pass
    machine.run("systemctl", "stop", "mosquitto")
    return feed(machine, 30)


def arrive(machine: Container, wanted: list[tuple[int, int]]) -> None:
    machine.run("systemctl", "start", "mosquitto")
    with witness(machine) as subscriber:
        all_arrive(subscriber, wanted)


def test_an_upgrade_keeps_what_waits(machine: Container, newer: Path, waiting: list[tuple[int, int]]) -> None:
    machine.install(newer)
    machine.line("stopped: [1-9][0-9]* records wait for the next start")
    machine.line(f"roamd {NEXT} is up: device rover, epoch {waiting[0][0] + 1}, [1-9][0-9]* records waiting")
    assert machine.run("systemctl", "is-active", "roamd") == "active"
    assert machine.property("NRestarts") == "0"
    arrive(machine, waiting)


def test_a_version_that_cannot_start_is_told_and_the_way_back_keeps_what_waits(
    machine: Container, amd64: Path, broken: Path, waiting: list[tuple[int, int]]
) -> None:
    machine.install(broken)
    machine.line("this version is broken")
    machine.line("restart counter is at 2")
    assert machine.fails("systemctl", "is-active", "roamd")
    machine.install(amd64)
    machine.line(f"roamd {version()} is up: device rover, epoch {waiting[0][0] + 1}, [1-9][0-9]* records waiting")
    assert machine.run("systemctl", "is-active", "roamd") == "active"
    arrive(machine, waiting)


def test_an_upgrade_asks_nothing_where_the_conffile_was_changed(machine: Container, newer: Path) -> None:
    conffile = "/etc/roamd/roamd.toml"
    machine.write(conffile, machine.read(conffile) + 'device_id = "changed"\n')
    said = machine.install(newer)
    assert "onfiguration file" not in said
    machine.line(f"roamd {NEXT} is up: device changed")
    assert machine.read(conffile).endswith('device_id = "changed"\n')


def test_remove_keeps_settings_and_outbox_and_purge_clears_them(
    machine: Container, amd64: Path, waiting: list[tuple[int, int]]
) -> None:
    machine.write("/etc/roamd/conf.d/10-own.toml", 'device_id = "rover"\n')
    machine.write("/etc/default/roamd", "ROAMD_LOG__LEVEL=info\n")
    machine.run("apt-get", "-y", "remove", "roamd")
    assert machine.fails("systemctl", "is-active", "roamd")
    machine.line("stopped: [1-9][0-9]* records wait for the next start")
    assert not machine.exists("/usr/lib/roamd")
    assert machine.exists("/etc/roamd/conf.d/10-own.toml")
    rows = sqlite3.connect(f"file:{machine.upper}/var/lib/roamd/outbox.db?mode=ro", uri=True)
    assert rows.execute("SELECT count(*) FROM outbox").fetchone()[0] >= len(waiting)
    rows.close()

    machine.install(amd64)
    machine.line(f"is up: device rover, epoch {waiting[0][0] + 1}, [1-9][0-9]* records waiting")
    arrive(machine, waiting)

    machine.write("/etc/credstore/roamd.mqtt-password", "x", mode=0o600)
    machine.run("apt-get", "-y", "purge", "roamd")
    for path in ("/etc/roamd", "/etc/default/roamd", "/var/lib/roamd", "/run/roamd", "/usr/lib/roamd"):
        assert not machine.exists(path), path
    assert not machine.exists("/etc/credstore/roamd.mqtt-password")
    assert "roamd" not in machine.run("systemctl", "list-unit-files", "--no-legend")

    machine.install(amd64)
    machine.line("is up: device rover, epoch 1, 0 records waiting")

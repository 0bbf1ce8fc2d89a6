"""The service on a Debian that boots."""

import re
import sys

from tests.system.conftest import Installed
from tests.system.container import Container
from tests.system.robot import all_arrive, feed, feeding, names, seen, witness

UP = r"roamd \S+ is up: device rover, epoch (\d+), (\d+) records waiting"


def test_from_install_to_telemetry_without_any_other_step(installed: Installed) -> None:
    assert re.match(r'device/rover/telemetry/\w+ {"ts":\d+,"epoch":1,"seq":\d+,', installed.message)
    sys.stdout.write(f"from apt-get install to the first message: {installed.seconds:.1f} s\n")  # pytest -rP shows it
    assert "rror" not in installed.said
    assert "not compiled" not in installed.said


def test_it_is_up_after_a_boot_and_says_so(machine: Container) -> None:
    machine.line(UP)
    assert machine.run("systemctl", "is-active", "roamd") == "active"
    assert machine.run("systemctl", "is-enabled", "roamd") == "enabled"
    machine.line("link up, connection 1")
    assert machine.property("StatusText") == "up, connection 1"
    assert machine.property("NRestarts") == "0"


def test_it_runs_inside_its_walls(machine: Container) -> None:
    pid = machine.property("MainPID")
    status = machine.read(f"/proc/{pid}/status")
    assert re.search(r"^NoNewPrivs:\s1$", status, re.MULTILINE)
    assert re.search(r"^Seccomp:\s2$", status, re.MULTILINE)
    assert re.search(r"^CapEff:\s0+$", status, re.MULTILINE)
    assert re.search(r"^CapBnd:\s0+$", status, re.MULTILINE)
    assert machine.run("stat", "-c", "%U %G", f"/proc/{pid}") == "roamd roamd"
    mounts = machine.read(f"/proc/{pid}/mounts")
    assert re.search(r"^\S+ / \S+ ro,", mounts, re.MULTILINE)
    assert re.search(r"^\S+ /var/lib/roamd \S+ rw,", mounts, re.MULTILINE)
    modes = machine.run(
        "stat", "-c", "%a %U %G %n", "/var/lib/roamd", "/var/lib/roamd/outbox.db", "/run/roamd/roamd.sock"
    )
    assert modes.splitlines() == [
        "750 roamd roamd /var/lib/roamd",
        "600 roamd roamd /var/lib/roamd/outbox.db",
        "660 roamd roamd /run/roamd/roamd.sock",
    ]


def test_the_password_comes_from_a_credential_that_is_for_root_alone(machine: Container) -> None:
    machine.run("mosquitto_passwd", "-c", "-b", "/etc/mosquitto/passwords", "rover", "geheim")
    machine.run("chown", "mosquitto", "/etc/mosquitto/passwords")
    machine.write(
        "/etc/mosquitto/conf.d/strict.conf",
        "listener 1883 127.0.0.1\nallow_anonymous false\npassword_file /etc/mosquitto/passwords\n",
    )
    machine.run("systemctl", "restart", "mosquitto")
    machine.line("0x87 not authorized")
    machine.write("/etc/credstore/roamd.mqtt-password", "geheim\n", mode=0o600)
    machine.write("/etc/roamd/conf.d/10-broker.toml", '[broker]\nusername = "rover"\n')
    machine.run("systemctl", "restart", "roamd")
    login = ("-u", "rover", "-P", "geheim")
    told = machine.run("mosquitto_sub", "-V", "5", *login, "-t", "device/rover/telemetry/+", "-C", "1", "-W", "60")
    assert '"epoch":' in told
    pid = machine.property("MainPID")
    folder = re.search(r"CREDENTIALS_DIRECTORY=([^\0]+)", machine.read(f"/proc/{pid}/environ"))
    assert folder is not None
    assert machine.run("ls", folder[1]) == "mqtt-password"
    assert "geheim" not in machine.journal()


def test_reload_is_a_sighup_that_interrupts_nothing(machine: Container) -> None:
    machine.line(UP)
    before = machine.property("MainPID")
    machine.run("systemctl", "reload", "roamd")
    machine.line("SIGHUP")
    assert machine.run("systemctl", "is-active", "roamd") == "active"
    assert machine.property("MainPID") == before


def test_settings_in_the_environment_file_count(machine: Container) -> None:
    machine.write("/etc/default/roamd", "ROAMD_DEVICE_ID=other\n")
    machine.run("systemctl", "restart", "roamd")
    machine.line("is up: device other")


def test_after_sigkill_it_is_back_and_what_waited_is_sent(machine: Container) -> None:
    machine.line(UP)
    with witness(machine):
        pass
    machine.run("systemctl", "stop", "mosquitto")
    accepted = feed(machine, 20)
    epoch = accepted[0][0]
    machine.run("systemctl", "kill", "--kill-who=main", "--signal=KILL", "roamd")
    machine.line(rf"is up: device rover, epoch {epoch + 1}, (\d\d+) records waiting")
    assert machine.property("NRestarts") == "1"
    machine.run("systemctl", "start", "mosquitto")
    with witness(machine) as subscriber:
        all_arrive(subscriber, accepted)


def test_a_power_cut_loses_nothing_that_was_accepted_as_synced(machine: Container) -> None:
    machine.line("link up, connection 1")
    with witness(machine) as subscriber, feeding(machine) as feeder:
        feeder.until(50)
        # Without a broker: what it has acknowledged and not passed on would be its own loss.
        machine.run("systemctl", "stop", "mosquitto")
        with_broker = len(feeder.lines)
        feeder.until(with_broker + 100)
        machine.pull_the_plug()
    accepted, before = names(feeder.lines), seen(subscriber)
    assert before
    machine.boot()
    with witness(machine) as subscriber:
        all_arrive(subscriber, [name for name in accepted if name not in before])
        assert set(accepted) <= before | seen(subscriber)
    assert len(accepted) == len(set(accepted)) >= 150


def test_without_a_broker_it_is_up_and_the_status_says_what_is_missing(machine: Container) -> None:
    machine.run("systemctl", "disable", "--now", "mosquitto")
    machine.run("systemctl", "restart", "roamd")
    machine.line(UP)
    machine.line("cannot connect to localhost:1883|connection refused|refused")
    assert machine.run("systemctl", "is-active", "roamd") == "active"
    assert "localhost:1883" in machine.property("StatusText") or "refused" in machine.property("StatusText")


def test_bad_settings_are_told_and_a_restart_by_hand_waits_for_nothing(machine: Container) -> None:
    machine.write("/etc/roamd/conf.d/10-bad.toml", "[broker]\nkeep_alife = 20\n")
    assert "roamd" in machine.fails("systemctl", "restart", "roamd")
    machine.line("unknown key broker.keep_alife; did you mean broker.keep_alive")
    machine.line("restart counter is at 3")
    machine.inside("/etc/roamd/conf.d/10-bad.toml").unlink()
    machine.run("systemctl", "restart", "roamd", within=15)
    assert machine.run("systemctl", "is-active", "roamd") == "active"
    assert not machine.exists("/run/roamd/failed")

"""systemd/roamd.service without booting anything."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.system.tools import PATH, ROOT, ProgramError, need, run

UNIT = ROOT / "systemd/roamd.service"
EXAMPLES = sorted((ROOT / "systemd/examples").glob("*.conf"))
WORST = 15  # tenths of systemd-analyze's exposure level


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, with a program that is there on every machine."""
    text = UNIT.read_text(encoding="utf-8")
    assert "ExecStart=/usr/bin/roamd run\n" in text
    file = tmp_path / UNIT.name
    file.write_text(text.replace("/usr/bin/roamd", "/bin/true"), encoding="utf-8")
    return file


def verify(unit: Path) -> str:
    """Return what systemd has to say about the unit: nothing, if it is right."""
    return run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit)


def test_systemd_has_nothing_to_say_about_the_unit(unit: Path) -> None:
    need("systemd-analyze")
    assert verify(unit) == ""


def test_systemd_would_say_something_about_a_wrong_unit(unit: Path) -> None:
    need("systemd-analyze")
    unit.write_text(unit.read_text(encoding="utf-8").replace("RestartSec=1\n", "RestartSek=1\n"), encoding="utf-8")
    with pytest.raises(ProgramError, match="RestartSek"):
        verify(unit)


def test_the_walls_are_high(unit: Path) -> None:
    need("systemd-analyze")
    run("systemd-analyze", "security", "--offline=true", f"--threshold={WORST}", unit)
    lower = unit.read_text(encoding="utf-8").replace("ProtectSystem=strict\n", "").replace("PrivateUsers=yes\n", "")
    unit.write_text(lower.replace("CapabilityBoundingSet=\n", ""), encoding="utf-8")
    with pytest.raises(ProgramError, match="Overall exposure level"):
        run("systemd-analyze", "security", "--offline=true", f"--threshold={WORST}", unit)


def test_systemd_reads_the_examples_beside_the_unit(unit: Path) -> None:
    need("systemd-analyze")
    folder = unit.with_name("roamd.service.d")
    folder.mkdir()
    (folder / "wrong.conf").write_text("[Service]\nProtectFroc=default\n", encoding="utf-8")
    with pytest.raises(ProgramError, match="ProtectFroc"):
        verify(unit)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_systemd_has_nothing_to_say_about_the_examples(unit: Path, example: Path) -> None:
    need("systemd-analyze")
    folder = unit.with_name("roamd.service.d")
    folder.mkdir()
    # Each line that an example offers is taken.
    (folder / example.name).write_text(re.sub(r"(?m)^#(?=[A-Z][A-Za-z]+=)", "", example.read_text(encoding="utf-8")))
    assert verify(unit) == ""


# The waits between failures.


def pause(folder: Path, result: str, *, minutes_ago: int = 0) -> int | None:
    """Have the unit's ExecStopPost run as after that result; return the seconds that the next start will wait."""
    failed = folder / "failed"
    if failed.exists() and minutes_ago:
        seconds, at = map(int, failed.read_text(encoding="ascii").split())
        failed.write_text(f"{seconds} {at - 60 * minutes_ago}\n", encoding="ascii")
    subprocess.run(
        ["/bin/sh", "-c", script("ExecStopPost")],
        env={"PATH": PATH, "RUNTIME_DIRECTORY": str(folder), "SERVICE_RESULT": result},
        check=True,
    )
    return int(failed.read_text(encoding="ascii").split()[0]) if failed.exists() else None


def script(key: str) -> str:
    text = UNIT.read_text(encoding="utf-8").replace("\\\n", "")
    found = re.search(rf"^{key}=/bin/sh -c '(.+)'$", text, re.MULTILINE)
    assert found is not None
    return found[1].replace("$$", "$")


def test_failures_in_a_row_wait_longer_and_longer(tmp_path: Path) -> None:
    (tmp_path / "failed").write_text("0 -100000\n", encoding="ascii")
    waits = [pause(tmp_path, "exit-code") for _ in range(10)]
    assert waits == [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_failure_long_after_the_last_one_waits_as_the_first(tmp_path: Path) -> None:
    (tmp_path / "failed").write_text("0 -100000\n", encoding="ascii")
    assert [pause(tmp_path, "watchdog") for _ in range(4)] == [0, 1, 2, 4]
    assert pause(tmp_path, "watchdog", minutes_ago=9) == 8
    assert pause(tmp_path, "watchdog", minutes_ago=11) == 0


def test_a_stop_in_order_forgets_the_failures(tmp_path: Path) -> None:
    for _ in range(4):
        pause(tmp_path, "signal")
    assert pause(tmp_path, "success") is None


def test_the_wait_ends_when_the_service_is_stopped_by_hand(tmp_path: Path) -> None:
    (tmp_path / "failed").write_text("60 0\n", encoding="ascii")
    environment = {"PATH": PATH, "RUNTIME_DIRECTORY": str(tmp_path)}
    command = ["/bin/sh", "-c", script("ExecStartPre") + "; echo over"]
    with subprocess.Popen(
        ["sh", "-c", 'exec 3>&1; "$@"', "sh", *command], env=environment, stdout=subprocess.PIPE, start_new_session=True
    ) as waiting:
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.5)
        os.killpg(waiting.pid, 15)
        assert waiting.wait(10) in {0, -15}


def test_without_a_failure_nothing_waits(tmp_path: Path) -> None:
    environment = {"PATH": PATH, "RUNTIME_DIRECTORY": str(tmp_path)}
    subprocess.run(["/bin/sh", "-c", script("ExecStartPre")], env=environment, timeout=10, check=True)

"""`roamd service`, on a root file system that is a folder."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent import cli
from agent.cli import service

ROOT = Path(__file__).resolve().parents[2]
UNIT = "etc/systemd/system/roamd.service"
USER = "etc/sysusers.d/roamd.conf"


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation by pip where the service can see it."""
    folder = tmp_path / "opt/pipx 50%/roamd"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/roamd").touch(mode=0o755)
    monkeypatch.setattr("sys.prefix", str(folder))
    monkeypatch.setattr(service, "_HIDDEN", ())
    return folder


def call(*words: str | Path) -> int:
    return cli.main(["service", *map(str, words)])


def test_the_unit_is_ours_and_runs_this_installation(prefix: Path, tmp_path: Path) -> None:
    assert call("install", "--root", tmp_path) == 0
    ours = (ROOT / "systemd/roamd.service").read_text(encoding="utf-8").splitlines()
    written = (tmp_path / UNIT).read_text(encoding="utf-8").splitlines()
    differing = [(old, new) for old, new in zip(ours, written, strict=True) if old != new]
    quoted = str(prefix).replace("%", "%%")
    assert differing == [("ExecStart=/usr/bin/roamd run", f'ExecStart="{quoted}/bin/roamd" run')]
    assert (tmp_path / UNIT).stat().st_mode & 0o777 == 0o644


@pytest.mark.usefixtures("prefix")
def test_the_user_is_the_package_s(tmp_path: Path) -> None:
    assert call("install", "--root", tmp_path) == 0
    assert (tmp_path / USER).read_text() == (ROOT / "packaging/debian/roamd.sysusers").read_text()


@pytest.mark.usefixtures("prefix")
def test_each_step_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("install", "--root", tmp_path)
    call("uninstall", "--root", tmp_path)
    files = (tmp_path / USER, tmp_path / UNIT)
    wanted = [f"wrote {files[0]}", f"wrote {files[1]}", f"removed {files[1]}", f"removed {files[0]}"]
    assert capsys.readouterr().out.splitlines() == wanted
    assert not any(file.exists() for file in files)


@pytest.mark.usefixtures("prefix")
@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_the_service_of_the_debian_package_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    packaged = tmp_path / "lib/systemd/system/roamd.service"
    packaged.parent.mkdir(parents=True)
    packaged.touch()
    assert call(command, "--root", tmp_path) == 69
    assert "the Debian package brings the service" in capsys.readouterr().err
    assert not (tmp_path / UNIT).exists()


def test_without_a_unit_there_is_nothing_to_uninstall(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("uninstall", "--root", tmp_path) == 69
    assert capsys.readouterr().err == f"roamd: {tmp_path / UNIT} is not there: nothing to uninstall\n"


def test_an_installation_that_the_service_cannot_see_is_refused(
    prefix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_HIDDEN", (str(tmp_path / "opt"),))
    assert call("install", "--root", tmp_path) == 69
    assert f"{prefix}/bin/roamd is below {tmp_path}/opt, which the service cannot see" in capsys.readouterr().err
    assert not (tmp_path / UNIT).exists()


def test_an_installation_without_its_command_is_refused(
    prefix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (prefix / "bin/roamd").unlink()
    assert call("install", "--root", tmp_path) == 69
    assert f"{prefix}/bin/roamd is not there" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("install",), ("uninstall",)])
def test_the_system_s_own_folders_need_root(
    words: Sequence[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(service, "_PACKAGED", ())
    assert call(*words) == 69
    assert re.fullmatch(r"roamd: a system service needs root: .+\n", capsys.readouterr().err)

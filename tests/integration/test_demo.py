"""`roamd demo`, as a newcomer runs it."""

import os
import re
import sys
from pathlib import Path

import pytest

from agent.cli import main
from agent.cli.demo import broker
from tests.support.agent_process import ROOT
from tests.support.child import Child, program
from tests.support.mosquitto import PACKAGE

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")
SBIN = ":/usr/sbin:/sbin"


async def demo(*arguments: str, folder: Path, **environment: str) -> Child:
    """Run it to its end."""
    program("mosquitto", package=PACKAGE)
    env = {key: value for key, value in os.environ.items() if not key.startswith("ROAMD_")}
    env |= {"PATH": env.get("PATH", "") + SBIN, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT), **environment}
    child = await Child.spawn((sys.executable, "-m", "agent", "demo", *arguments), name="demo", env=env, cwd=folder)
    try:
        await child.wait(within=100)
    finally:
        await child.end()
    return child


def closing(child: Child) -> dict[str, int]:
    """The counts of the closing lines."""
    return {match[1]: int(match[2]) for line in child.out if (match := re.match(r"(\w+) +(\d+)\b", line))}


async def test_the_demo_ends_by_itself_with_nothing_lost_and_leaves_nothing_behind(tmp_path: Path) -> None:
    ended = await demo("--for", "4s", folder=tmp_path)
    assert ended.returncode == 0, ended.story()
    counts = closing(ended)
    assert counts["accepted"] == counts["delivered"] > 10
    assert (counts["doubled"], counts["lost"]) == (0, 0)
    assert os.listdir(tmp_path) == []  # noqa: PTH208  pathlib would block as well


async def test_nothing_is_lost_though_the_broker_is_killed_midway(tmp_path: Path) -> None:
    ended = await demo("--for", "8s", "--outage", "3s", folder=tmp_path)
    assert ended.returncode == 0, ended.story()
    counts = closing(ended)
    assert counts["accepted"] == counts["delivered"] > 20
    assert counts["lost"] == 0
    said = "\n".join(ended.out)
    assert "the broker is killed (SIGKILL) for 3 s" in said
    assert re.search(r"broker down .* outbox [1-9]", said)


async def test_lines_that_go_to_no_terminal_have_no_control_codes(tmp_path: Path) -> None:
    ended = await demo("--for", "2s", folder=tmp_path)
    assert ended.out
    assert [line for line in (*ended.out, *ended.err) if CONTROL.search(line)] == []


def test_without_mosquitto_the_apt_line_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(broker, "_SBIN", "")
    assert main(["demo", "--for", "2s"]) == 69
    said = capsys.readouterr().err
    assert said.startswith("roamd: ")
    assert "sudo apt install mosquitto" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("width", [40, 100])
async def test_on_a_terminal_a_table_is_drawn_within_its_width(tmp_path: Path, width: int) -> None:
    program("script", package="bsdutils")
    inner = f"stty cols {width} rows 24; exec {sys.executable} -m agent demo --for 3s"
    env = {**os.environ, "PATH": os.environ["PATH"] + SBIN, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    env |= {"TERM": "xterm"}
    env.pop("COLUMNS", None)
    ended = await Child.spawn(("script", "-qec", inner, "/dev/null"), name="demo", env=env, cwd=tmp_path)
    try:
        assert await ended.wait(within=100) == 0
    finally:
        await ended.end()
    said = "\n".join(ended.out)
    assert "\x1b[" in said
    assert "stream" in said
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", said)
    wide = [line for line in shown.splitlines() if len(line) > width and line.startswith(("stream", "cpu", "memory"))]
    assert wide == []
    assert re.search(r"lost +0", shown)

"""The command `roamd`, as a process of its own, with an environment that the developer's does not touch."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import __version__
from agent.cli.arguments import parser
from agent.cli.config import _lines
from agent.settings import load
from tests.support.agent_process import ROOT, SYSTEMD
from tests.support.machine import Machine

ROAMD = (sys.executable, "-m", "agent")
GROUND = ("run", "send", "get-state", "set", "devices", "records")
SECRET = "hunter2"
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("ROAMD_", "PYTHON")) and name not in {*SYSTEMD, "COLUMNS"}
}


def run(
    *arguments: str | Path, command: Sequence[str] = ROAMD, stdout: int = subprocess.PIPE, **environ: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, *map(str, arguments)],
        cwd=ROOT,
        env={**CLEAN, **environ},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def modules_after(code: str) -> set[str]:
    """Return what is imported once `code` has run; the parts of a package count as the package too."""
    told = run(f"{code}\nimport sys\nprint(*sys.modules)", command=(sys.executable, "-c"))
    assert told.stderr == ""
    return set(told.stdout.splitlines()[-1].split())


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A settings file that is valid on a machine of any name."""
    file = tmp_path / "own.toml"
    file.write_text(f'device_id = "rover"\noutbox.path = "{tmp_path}/state/outbox.db"\n')
    return file


# Usage.


def test_the_version_is_told() -> None:
    told = run("--version")
    assert (told.returncode, told.stdout, told.stderr) == (0, f"roamd {__version__}\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("fly",),
        ("--fly",),
        ("run", "--fly"),
        ("run", "extra"),
        ("config",),
        ("config", "hide"),
        ("run", "--config"),
        ("--config", "x.toml", "demo"),
        ("ground", "fly"),
        ("ground", "send", "rover"),
        ("ground", "send", "rover", "a/b"),
        ("ground", "send", "rover", "dock", "speed"),
        ("ground", "send", "rover", "dock", "=1"),
        ("ground", "send", "rover", "dock", "--ttl", "never"),
        ("ground", "set", "rover"),
        ("ground", "--share", "a/b"),
    ],
)
def test_wrong_usage_exits_64_and_tells_the_right_one(arguments: Sequence[str]) -> None:
    told = run(*arguments)
    assert (told.returncode, told.stdout) == (64, "")
    usage, *_, why = told.stderr.splitlines()
    assert usage.startswith("usage: roamd")
    assert why.startswith("roamd")


@pytest.mark.parametrize("text", ["", "x", "s", "0", "0s", "-5s", "nan", "inf", "1e400", "1d", "20sm", "20 s 5"])
@pytest.mark.parametrize("option", ["--for", "--outage"])
def test_what_is_no_time_is_refused(option: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["demo", f"{option}={text}"])
    assert ended.value.code == 64
    assert f"roamd demo: argument {option}: {text!r} is no time; write 20s, 500ms or 2m\n" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "expected"), [("20s", 20), ("20", 20), ("500ms", 0.5), ("2m", 120), ("0.5h", 1800)])
def test_a_time_has_a_unit_or_is_in_seconds(text: str, expected: float) -> None:
    arguments = parser().parse_args(["demo", "--for", text, "--outage", text])
    assert arguments.duration == arguments.outage == expected


@pytest.mark.parametrize(
    "command",
    [(), ("run",), ("demo",), ("config",), ("config", "show"), ("ground",), *[("ground", name) for name in GROUND]],
)
def test_help_fits_a_narrow_terminal(command: Sequence[str]) -> None:
    told = run(*command, "--help", COLUMNS="40")
    assert told.returncode == 0
    assert max(map(len, told.stdout.splitlines())) <= 40


# `roamd config show`.


def test_config_show_prints_toml_that_loads_again_to_the_same_settings(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text(SECRET)
    config = tmp_path / "own.toml"
    config.write_text(
        f'[broker]\nusername = "Ünä \\" \\\\ \\u0007 \\u007F 🤖"\npassword_file = "{password}"\nsession_expiry = "7d"\n'
        '[broker.backoff]\nstrategy = "fixed"\n[streams.cpu]\nenabled = false\n[streams."a.b"]\ndelivery = "live"\n'
        '[commands."dock.1"]\nargv = ["dock", "{x}"]\nenvironment = { A = "\\"" }\n'
        'args.x = { type = "array", items = { type = "object" }, default = [{ "a b" = [true, { c = 1.5 }] }] }\n'
    )
    environ = {"STATE_DIRECTORY": "/s", "ROAMD_DEVICE_ID": "rover", "ROAMD_BROKER__URLS": "mqtt://[::1]:1884"}
    told = run("config", "show", "--config", config, PYTHONIOENCODING="ascii", **environ)
    assert (told.returncode, told.stderr) == (0, "")
    again = tmp_path / "again.toml"
    again.write_text(told.stdout)
    before = load(config=config, environ=environ, hostname="").settings
    assert load(config=again, environ={}, hostname="").settings == before
    assert before.broker.password is not None


def test_config_show_tells_where_each_value_came_from(config: Path) -> None:
    lines = run("config", "show", "--config", config, ROAMD_STREAMS__CPU__INTERVAL="500ms").stdout.splitlines()
    assert f'device_id = "rover"  # {config}' in lines
    assert "interval = 0.5  # ROAMD_STREAMS__CPU__INTERVAL" in lines
    assert "keep_alive = 30" in lines


def test_config_show_tells_that_there_is_a_password_but_never_which(config: Path, tmp_path: Path) -> None:
    (tmp_path / "mqtt-password").write_text(SECRET)
    told = run("config", "show", "--config", config, ROAMD_BROKER__USERNAME="u", CREDENTIALS_DIRECTORY=str(tmp_path))
    assert f"# password is set  # {tmp_path}/mqtt-password" in told.stdout.splitlines()
    assert SECRET not in told.stdout + told.stderr
    told = run("config", "show", "--config", config, ROAMD_BROKER__USERNAME="u", ROAMD_BROKER__PASSWORD=SECRET)
    assert "# password is set  # ROAMD_BROKER__PASSWORD" in told.stdout.splitlines()
    assert SECRET not in told.stdout + told.stderr
    assert "password" not in tomllib.loads(told.stdout)["broker"]


@pytest.mark.parametrize("name", ["a\nb.toml", "\udcff.toml", "ä.toml", "#.toml"])
def test_a_settings_file_may_have_any_name(config: Path, name: str) -> None:
    odd = config.rename(config.with_name(name))
    told = run("config", "show", "--config", odd)
    assert (told.returncode, told.stderr) == (0, "")
    assert tomllib.loads(told.stdout)["device_id"] == "rover"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """One for all examples of a property."""
    return Machine(tmp_path_factory.mktemp("settings"))


@given(
    username=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
    stream=st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True),
    interval=st.floats(0.05, 86_400),
    max_line=st.integers(1024, 2**24),
)
def test_whatever_is_set_is_shown_so_that_it_loads_again(
    machine: Machine, username: str, stream: str, interval: float, max_line: int
) -> None:
    machine.write(f"[streams.{json.dumps(stream)}]\ninterval = {interval!r}\n")
    loaded = machine.load(ROAMD_BROKER__USERNAME=username, ROAMD_INGEST__MAX_LINE=str(max_line))
    machine.write("\n".join(_lines(loaded)))
    assert machine.load().settings == loaded.settings


# Errors.


def test_a_settings_error_exits_78_with_a_line_for_each(config: Path) -> None:
    config.write_text("device_id = 'rover'\n[broker]\nkeep_alife = 20\nwill_delay = -1\n")
    for command in (("run",), ("config", "show")):
        told = run(*command, "--config", config, ROAMD_X="1")
        assert (told.returncode, told.stdout) == (78, "")
        lines = told.stderr.splitlines()
        assert len(lines) == 3
        assert all(line.startswith("roamd: ") for line in lines)
        assert f"roamd: {config}: unknown key broker.keep_alife; did you mean broker.keep_alive?" in lines


def test_the_file_may_be_named_before_and_after_the_subcommand(config: Path) -> None:
    for arguments in (
        ("--config", config, "config", "show"),
        ("config", "--config", config, "show"),
        ("config", "show", "--config", config),
        ("--config", "/nonexistent", "config", "show", "--config", config),
    ):
        assert f'device_id = "rover"  # {config}' in run(*arguments).stdout
    for arguments in (("--config", "/nonexistent", "run"), ("run", "--config", "/nonexistent")):
        told = run(*arguments)
        assert (told.returncode, told.stderr) == (78, "roamd: cannot read /nonexistent: No such file or directory\n")


def test_a_state_folder_that_cannot_be_made_exits_74(config: Path) -> None:
    told = run("run", "--config", config, ROAMD_OUTBOX__PATH="/proc/roamd/outbox.db")
    assert (told.returncode, told.stdout) == (74, "")
    assert told.stderr.splitlines()[-1].startswith("roamd: cannot write the state folder /proc/roamd: ")


@pytest.mark.parametrize("environ", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("command", [("config", "show"), ("--help",), ("--version",)])
def test_output_that_nobody_reads_or_that_has_no_room_leaves_no_traceback(
    config: Path, command: Sequence[str], environ: dict[str, str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as pipe, Path("/dev/full").open("wb") as full:  # noqa: PTH123  a file descriptor
        told = run("--config", config, *command, stdout=pipe.fileno(), **environ)
        assert (told.returncode, told.stderr) == (0, "")
        told = run("--config", config, *command, stdout=full.fileno(), **environ)
        if command[0].startswith("--") and sys.version_info >= (3, 12) and environ:
            # From 3.12 on, argparse itself passes over what it cannot write of help and version.
            assert (told.returncode, told.stderr) == (0, "")
        else:
            assert (told.returncode, told.stderr) == (74, "roamd: No space left on device\n")


# `roamd ground`.


def test_options_of_ground_stand_before_or_after_what_it_is_to_do() -> None:
    for argv in (
        ["--db", "x", "--broker", "y", "run"],
        ["run", "--db", "x", "--broker", "y"],
        ["--db", "x", "--broker", "y"],
    ):
        arguments = parser().parse_args(["ground", *argv])
        assert (arguments.db, arguments.broker, arguments.prefix) == (Path("x"), "y", "device/+")
        assert arguments.call.__name__ == "_run"
    assert parser().parse_args(["ground", "--db", "x", "devices"]).call.__name__ == "_devices"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("send", "rover", "dock", "--broker", "http://x"), "roamd: --broker: broker.urls"),
        (("send", "a/b", "dock"), "roamd: 'a/b' is no name of a device under device/+"),
        (("send", "rover", "dock", "--prefix", "device/#"), "roamd: --prefix: 'device/#' is no prefix"),
        (("set", "rover", "a=1", "a.b=2"), "roamd: a.b: a is set to something else than a table"),
        (("--broker", "mqtts://x", "--ca-file", "/nonexistent"), "roamd: cannot read broker.ca_file '/nonexistent'"),
    ],
)
def test_what_ground_cannot_use_exits_78(arguments: Sequence[str], why: str, tmp_path: Path) -> None:
    told = run("ground", "--db", tmp_path / "g.db", *arguments)
    assert (told.returncode, told.stdout) == (78, "")
    assert told.stderr.startswith(why)


def test_ground_takes_no_file_of_the_agents_settings(config: Path, tmp_path: Path) -> None:
    told = run("--config", config, "ground", "--db", tmp_path / "g.db")
    assert (told.returncode, "--config is for the agent" in told.stderr) == (78, True)


@pytest.mark.parametrize("arguments", [("devices",), ("records", "rover", "imu")])
def test_without_a_file_there_is_nothing_to_show(arguments: Sequence[str], tmp_path: Path) -> None:
    told = run("ground", *arguments, "--db", tmp_path / "none.db")
    assert (told.returncode, told.stdout) == (74, "")
    assert not (tmp_path / "none.db").exists()


# Imports.


def test_run_imports_nothing_that_only_the_other_subcommands_need() -> None:
    modules = modules_after("import agent.cli.run")
    assert "agent.daemon" in modules
    others = ("agent.cli.demo", "agent.cli.config", "agent.ground", "agent.cli.ground.")
    assert {name for name in modules if name.startswith(others)} == {"agent.cli.ground.arguments"}
    assert not modules & {"rich", "hypothesis", "pytest", "unittest"}


def test_usage_is_told_without_importing_what_the_commands_need() -> None:
    modules = modules_after("import agent.cli\nagent.cli.parser().format_help()")
    assert not modules & {
        "agent.daemon",
        "agent.settings",
        "pydantic",
        "gmqtt",
        "psutil",
        "aiosqlite",
        "asyncio",
        "rich",
    }


def test_config_show_imports_no_daemon() -> None:
    modules = modules_after("import agent.cli.config")
    assert not modules & {"agent.daemon", "gmqtt", "psutil", "aiosqlite", "sdnotify", "rich"}

"""Settings from real files, and from an environment that is given: the developer's own has no say."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import SettingsError
from agent.settings.commands import CommandTable
from agent.sources import STARTED
from tests.support.agent_process import Setting, toml
from tests.support.machine import DELIVERY, STREAM, Machine

EXAMPLE = Path(__file__).parents[2] / "config" / "roamd.toml"
DEFAULTS = {
    "device_id": "rover",
    "topics": {"prefix": "device/rover"},
    "broker": {
        "urls": ("mqtt://localhost:1883",), "protocol": "5", "client_id": "rover",
        "username": "", "password": None, "password_file": None, "ca_file": None, "cert_file": None, "key_file": None,
        "keep_alive": 30, "session_expiry": 86_400, "clean_start": False, "will_delay": 15,
        "connect_timeout": 3, "hello_timeout": 10, "dead_after": 10, "stable_after": 30, "return_after": 300,
        "referrals": (), "max_inflight": 1000,
        "backoff": {"strategy": "full-jitter", "base": 1.0, "cap": 30.0, "jitter": 0.5, "link_cap": 4.0},
    },
    "outbox": {"path": Path("/state/outbox.db"), "commit_interval": 0.5, "fresh_for": 5.0, "backlog_share": 0.2,
               "backlog_rate": 0, "compress": False, "confirm": "broker"},
    "streams": {name: {"source": name, **STREAM} for name in ("cpu", "memory", "disk", "network", "thermal", "host")},
    "ingest": {"socket": Path("/run/roamd/roamd.sock"), "max_line": 64 * 1024, "defaults": DELIVERY},
    "commands": {"max_running": 4, "max_age": 300.0, "remember": 604_800.0, "qos": 1},
    "resync": {"timeout": 10.0, "on_timeout": "proceed", "every": 60.0, "remote": ("streams.*.interval",)},
    "health": {"interval": 60.0},
    "log": {"level": "info"},
}  # fmt: skip
SYSTEMD = {"STATE_DIRECTORY": "/state", "RUNTIME_DIRECTORY": "/run/roamd"}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture(scope="module")
def any_machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """One for all examples of a property."""
    return Machine(tmp_path_factory.mktemp("settings"))


def leaves(table: Mapping[str, Any], *at: str) -> Iterator[tuple[str, ...]]:
    for name, value in table.items():
        yield from leaves(value, *at, name) if isinstance(value, Mapping) else [(*at, name)]


# Where they come from.


def test_without_any_settings_the_defaults_are_those_of_the_contract(machine: Machine) -> None:
    loaded = machine.load(**SYSTEMD)
    assert loaded.settings.model_dump() == DEFAULTS
    assert loaded.origins == {("device_id",): "the host name"}
    assert set(STARTED) == set(loaded.settings.streams)


def test_a_later_place_wins_key_by_key(machine: Machine) -> None:
    machine.write("[broker]\nkeep_alive = 11\nwill_delay = 11\ndead_after = 11\nstable_after = 11")
    machine.write("[broker]\nwill_delay = 22\ndead_after = 22\nstable_after = 22", to="conf.d/10-a.toml")
    machine.write("[broker]\ndead_after = 33\nstable_after = 33", to="conf.d/9-b.toml")
    loaded = machine.load(ROAMD_BROKER__STABLE_AFTER="44")
    broker = loaded.settings.broker
    assert (broker.keep_alive, broker.will_delay, broker.dead_after, broker.stable_after) == (11, 22, 33, 44)
    assert loaded.origins["broker", "keep_alive"] == str(machine.file)
    assert loaded.origins["broker", "dead_after"] == str(machine.etc / "conf.d/9-b.toml")
    assert loaded.origins["broker", "stable_after"] == "ROAMD_BROKER__STABLE_AFTER"


def test_what_is_no_settings_file_in_the_folder_is_passed_over(machine: Machine) -> None:
    for name in ("10.toml.dpkg-old", "README", ".#10.toml", "10.toml~"):
        machine.write("rubbish", to=f"conf.d/{name}")
    assert machine.load(**SYSTEMD).settings.model_dump() == DEFAULTS


def test_with_a_file_of_the_command_line_those_in_etc_do_not_count(machine: Machine, tmp_path: Path) -> None:
    machine.write("rubbish")
    machine.write("rubbish", to="conf.d/10.toml")
    config = tmp_path / "own.toml"
    config.write_text("broker.keep_alive = 11\nbroker.will_delay = 11")
    broker = machine.load(config=config, ROAMD_BROKER__WILL_DELAY="44").settings.broker
    assert (broker.keep_alive, broker.will_delay) == (11, 44)


def test_only_the_environment_that_is_passed_counts(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROAMD_BROKER__KEEP_ALIVE", "77")
    monkeypatch.setenv("ROAMD_BROKER", "rubbish")
    assert machine.settings(roamd_broker__keep_alive="78").broker.keep_alive == 30


# What is not known.


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[broker]\nkeepalive = 20", "broker.keepalive; did you mean broker.keep_alive?"),
        ("[brokr]\nkeep_alive = 20", "brokr; did you mean broker?"),
        ("[broker.backoff]\nbse = 1", "broker.backoff.bse; did you mean broker.backoff.base?"),
        ("[streams.imu]\nintervall = 1", "streams.imu.intervall; did you mean streams.imu.interval?"),
        ("[log]\nx = 1", "log.x; known here: level"),
        (
            '"a\\nb" = 1',
            "'a\\nb'; known here: broker, commands, device_id, health, ingest, log, outbox, resync, streams, topics",
        ),
        ('_cli_parse_args = ["x"]\n', "_cli_parse_args; known here"),
    ],
)
def test_an_unknown_key_names_the_file_and_the_nearest_known_one(machine: Machine, text: str, told: str) -> None:
    (line,) = machine.wrong(text)
    assert line.startswith(f"FILE: unknown key {told}")


@pytest.mark.parametrize(
    ("variable", "told"),
    [
        ("ROAMD_BROKER__KEEPALIVE", "did you mean ROAMD_BROKER__KEEP_ALIVE?"),
        ("ROAMD_BROKER_KEEP_ALIVE", "did you mean ROAMD_BROKER__KEEP_ALIVE?"),
        ("ROAMD_broker__keep_alive", "did you mean ROAMD_BROKER__KEEP_ALIVE?"),
        ("ROAMD_STREAMS__IMU__INTERVALL", "did you mean ROAMD_STREAMS__IMU__INTERVAL?"),
        ("ROAMD_DEVICE_ID__X", "did you mean ROAMD_DEVICE_ID?"),
        ("ROAMD_HOME", "they are named as in ROAMD_BROKER__KEEP_ALIVE"),
        ("ROAMD_", "they are named as in ROAMD_BROKER__KEEP_ALIVE"),
    ],
)
def test_an_unknown_variable_names_the_nearest_known_one(machine: Machine, variable: str, told: str) -> None:
    assert machine.wrong(**{variable: "20"}) == [f"{variable}: unknown variable; {told}"]


def test_everything_that_is_wrong_is_told_at_once(machine: Machine) -> None:
    machine.write("keep_alive = [", to="conf.d/5.toml")
    machine.write('[broker]\npassword = "x"\nkeep_alive = 4', to="conf.d/6.toml")
    lines = machine.wrong('[broker]\nx = 1\n[log]\nlevel = "loud"', ROAMD_X="1", ROAMD_HEALTH__INTERVAL="-1")
    places = ["conf.d/5.toml", "conf.d/6.toml: broker.password", "conf.d/6.toml: broker.keep_alive", "FILE: unknown",
              "FILE: log.level", "ROAMD_X: ", "ROAMD_HEALTH__INTERVAL: "]  # fmt: skip
    assert [sum(place in line for line in lines) for place in places] == [1] * len(places)
    assert len(lines) == len(places)


# Files that cannot be read.


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[broker]\nkeep_alive = \n", "not valid TOML: Invalid value (at line 2, column 14)"),
        (b"# \xff", "not UTF-8 at byte 2"),
        ("x = " + "[" * 10_000, "not valid TOML: "),
        ("[" + ".".join("x" * 900) + "]", "unknown key x"),
        ("x = " + "9" * 5_000, "not valid TOML: "),
    ],
)
def test_a_broken_file_is_named_with_the_place(machine: Machine, content: str | bytes, told: str) -> None:
    (line,) = machine.wrong(content)
    assert line.startswith(f"FILE: {told}")


def test_a_byte_order_mark_does_no_harm(machine: Machine) -> None:
    assert machine.settings(b"\xef\xbb\xbfdevice_id = 'imp'\r\n").device_id == "imp"


@pytest.mark.parametrize("file", ["/", "/proc/self/mem", "/nonexistent/roamd.toml"])
def test_a_file_that_cannot_be_read_is_named_with_the_reason(machine: Machine, file: str) -> None:
    with pytest.raises(SettingsError, match=rf"\Acannot read {file}: [A-Z][\w/ ]+\Z"):
        machine.load(config=Path(file))


def test_what_is_in_the_place_of_a_file_or_folder_is_not_passed_over(machine: Machine) -> None:
    machine.file.mkdir(parents=True)
    with pytest.raises(SettingsError, match=r"roamd\.toml: Is a directory"):
        machine.load()
    machine.file.rmdir()
    machine.file.symlink_to("nowhere")
    with pytest.raises(SettingsError, match=r"roamd\.toml: No such file"):
        machine.load()
    machine.file.unlink()
    machine.write("", to="conf.d")
    with pytest.raises(SettingsError, match=r"conf\.d: Not a directory"):
        machine.load()


# The example that is installed.


def test_the_example_sets_nothing(machine: Machine) -> None:
    assert machine.settings(EXAMPLE.read_bytes()) == machine.settings()


def test_the_example_tells_every_setting_with_its_true_default(machine: Machine) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    machine.write(re.sub(r"^# (?=[a-z_]+ = )", "", text, flags=re.MULTILINE))
    told = machine.load(**SYSTEMD)
    assert told.settings.model_dump() == DEFAULTS
    repeated = {("streams", name, key) for name in STARTED if name != "cpu" for key in STREAM}
    assert set(leaves(DEFAULTS)) - set(told.origins) - repeated == {("broker", "password")}
    assert told.origins["device_id",] == "the host name"


def test_the_examples_in_the_example_are_valid(machine: Machine) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    settings = machine.settings(re.sub(r"^#     (?=[a-z[])", "", text, flags=re.MULTILINE))
    assert settings.device_id == "rover-7"
    assert settings.streams["imu"].delivery == "live"
    assert set(settings.commands.programs["dock"].args) == {"speed", "berth", "lights"}


def test_the_example_tells_every_setting_of_a_command_with_its_true_default(machine: Machine) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    given = machine.settings(re.sub(r"^#     (?=[a-z[])", "", text, flags=re.MULTILINE)).commands.programs["dock"]
    assert given.model_fields_set == set(CommandTable.model_fields)
    plain = CommandTable(argv=("x",)).model_dump(exclude={"argv", "environment", "args"})
    assert given.model_dump(exclude={"argv", "environment", "args"}) == plain


def test_the_example_fits_a_terminal_and_is_ascii() -> None:
    assert max(map(len, EXAMPLE.read_text(encoding="ascii").splitlines())) <= 100


# Whatever is written.

NAMES = st.sampled_from([part for key in leaves(DEFAULTS) for part in key]) | st.text(max_size=5)
VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.sampled_from(["10s", "64KiB", "mqtt://h"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=15,
)  # fmt: skip
VARIABLES = st.sampled_from(["ROAMD_" + "__".join(key).upper() for key in leaves(DEFAULTS)]) | st.text(
    "ROAMD_X", max_size=9
)


@given(settings=st.dictionaries(NAMES, VALUES, max_size=5))
def test_no_table_whatever_is_worse_than_a_settings_error(any_machine: Machine, settings: dict[str, Setting]) -> None:
    any_machine.write(toml({json.dumps(name): value for name, value in settings.items()}))
    survives(any_machine)


@given(
    environ=st.dictionaries(
        VARIABLES, st.text(st.characters(exclude_characters="\0")) | VALUES.map(json.dumps), max_size=5
    )
)
def test_no_environment_whatever_is_worse_than_a_settings_error(any_machine: Machine, environ: dict[str, str]) -> None:
    any_machine.write("")
    survives(any_machine, **environ)


def survives(machine: Machine, **environ: str) -> None:
    try:
        assert machine.load(**environ).settings.outbox.path.is_absolute()
    except SettingsError as exc:
        assert all(re.match(r"\S.*: \S|cannot read", line) for line in str(exc).split("\n"))  # noqa: PT017

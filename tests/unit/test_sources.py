import json
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from agent import sources
from agent.errors import AbsentError, ReadingError
from agent.sources.disk import Disk
from agent.sources.host import Host
from agent.sources.network import Network
from agent.sources.rates import Rates
from agent.sources.source import slug
from agent.sources.thermal import Thermal

ROOT = Path(__file__).resolve().parents[2]
NAMES = tuple(sources.BUILTIN)


def declared(source: sources.Source, name: str) -> bool:
    patterns = (re.sub(r"\\\{\w+\\\}", ".+", re.escape(field.name)) for field in source.fields)
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def twice(source: sources.Source) -> dict[str, Any]:
    """Two readings, so that there are rates; skips where this machine has nothing to read."""
    try:
        source.read()
        return source.read()
    except AbsentError as exc:
        pytest.skip(str(exc))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_is_declared_flat_and_finite(name: str) -> None:
    source = sources.make(name, {})
    values = twice(source)
    assert values
    assert [key for key in values if not declared(source, key)] == []
    assert all(value is None or isinstance(value, bool | int | float | str) for value in values.values())
    assert all(math.isfinite(value) for value in values.values() if isinstance(value, float))
    assert json.loads(json.dumps(values)) == values


HEAD = """# The built-in sources

Each is a stream of its own name, read every 10 s unless it says otherwise here, or `[streams.NAME] interval` does. What
this machine does not have is left out; a part in braces stands for each thing of that kind. Rates need two readings, so
the first has none. Those that have to be told what to read start only where a stream has them as its `source`; their
options stand in `[streams.NAME.options]`.
"""


def section(name: str) -> str:
    builtin, source = sources.BUILTIN[name], sources.find(name)
    about = [" ".join((source.__doc__ or "").split())]
    if not builtin.is_started:
        about.append("It starts only where a stream has it as its `source`.")
    if builtin.interval != 10.0:
        about.append(f"Read every {builtin.interval:g} s.")
    options = [
        f"| `{name}` | {one.kind} | {'required' if one.is_required else json.dumps(one.default)} | {one.description} |"
        for name, one in source.options.items()
    ]
    if options:
        options = ["| option | type | default | meaning |", "|---|---|---|---|", *options, ""]
    rows = [f"| `{field.name}` | {field.unit} | {field.meaning} |" for field in source.fields]
    fields = ["| field | unit | meaning |", "|---|---|---|", *rows, ""]
    return "\n".join([f"\n## {name}\n", " ".join(about), "", *options, *fields])


def page() -> str:
    """The text of docs/sources.md."""
    return "".join([HEAD, *map(section, sources.BUILTIN)])


def test_the_documentation_of_the_sources_is_what_they_declare() -> None:
    assert (ROOT / "docs/sources.md").read_text(encoding="utf-8") == page()


@pytest.mark.parametrize("name", NAMES)
def test_every_field_has_a_meaning_and_a_name_of_its_own(name: str) -> None:
    fields = sources.make(name, {}).fields
    assert fields
    assert all(field.meaning for field in fields)
    assert len({field.name for field in fields}) == len(fields)


def test_an_unknown_source_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"there is no source 'memori'; did you mean 'memory'\?"):
        sources.make("memori", {})
    with pytest.raises(ValueError, match=r"there is no source 'zzz'; there are cpu, memory, "):
        sources.validate("zzz", {})


def test_an_option_that_a_source_does_not_know_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"options: unknown key 'core'; there are none"):
        sources.validate("cpu", {"core": 1})


# Sources of other packages.

SONAR = """
from agent.arguments import Argument
from agent.sources import Field, Source


class Sonar(Source):
    fields = (Field("range_m", "m", "distance"),)
    options = {"port": Argument(kind="string", is_required=True)}

    def __init__(self, *, port: str) -> None:
        self._port = port

    def _read(self):
        return {"range_m": len(self._port)}
"""


@pytest.fixture
def sonar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an installed package that has a source."""
    (tmp_path / "roamd_sonar.py").write_text(SONAR)
    about = tmp_path / "roamd_sonar-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: roamd-sonar\nVersion: 1.0\n")
    points = "sonar = roamd_sonar:Sonar\ncpu = roamd_sonar:Sonar\nbroken = roamd_sonar:Nothing\nodd = os:path\n"
    (about / "entry_points.txt").write_text(f"[roamd.sources]\n{points}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "roamd_sonar", raising=False)
    return tmp_path


@pytest.mark.usefixtures("sonar")
def test_another_package_adds_a_source_and_replaces_none() -> None:
    assert sources.make("sonar", {"port": "abc"}).read() == {"range_m": 3}
    assert sources.names() == [*sources.BUILTIN, "broken", "odd", "sonar"]
    assert sources.interval("sonar") == 10.0
    assert sources.find("cpu").__module__ == "agent.sources.cpu"
    with pytest.raises(ValueError, match="options: port is missing"):
        sources.validate("sonar", {})


@pytest.mark.usefixtures("sonar")
def test_what_another_package_does_wrong_is_told_with_its_name() -> None:
    with pytest.raises(ValueError, match=r"'broken' \(roamd_sonar:Nothing\) cannot be imported: AttributeError"):
        sources.validate("broken", {})
    with pytest.raises(ValueError, match=r"'odd' \(os:path\) is no agent.sources.Source"):
        sources.validate("odd", {})


@pytest.mark.parametrize("failure", [OSError(19, "No such device"), ValueError("odd"), psutil.AccessDenied(1)])
def test_what_psutil_cannot_read_is_one_reading_that_failed(
    monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail(**_: object) -> None:
        raise failure

    monkeypatch.setattr(psutil, "cpu_times", fail)
    with pytest.raises(ReadingError, match="cannot read cpu: ") as caught:
        sources.make("cpu", {}).read()
    assert caught.value.__cause__ is failure


def test_the_first_reading_has_no_rates_and_the_second_has() -> None:
    cpu = sources.make("cpu", {})
    assert "cpu_percent" not in cpu.read()
    before = sum(map(sum, psutil.cpu_times(percpu=True)))
    while sum(map(sum, psutil.cpu_times(percpu=True))) < before + 0.1:
        sum(range(10_000))
    again = cpu.read()
    assert 0 <= again["cpu_percent"] <= 100
    assert "cpu0_percent" in again


def test_cpu_percent_is_what_was_busy_of_what_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    times = SimpleNamespace(now=[(10.0, 0, 10, 100, 0, 0, 0, 0), (20.0, 0, 0, 100, 0, 0, 0, 0)])
    monkeypatch.setattr(psutil, "cpu_times", lambda **_: times.now)
    cpu = sources.make("cpu", {})
    cpu.read()
    times.now = [(15.0, 0, 10, 105, 0, 0, 0, 0), (20.0, 0, 0, 108, 2, 0, 0, 0)]
    values = cpu.read()
    assert (values["cpu_percent"], values["cpu0_percent"], values["cpu1_percent"]) == (25.0, 50.0, 0.0)


def test_a_core_that_was_switched_off_costs_one_percentage_only(monkeypatch: pytest.MonkeyPatch) -> None:
    times = SimpleNamespace(now=[(1.0, 0, 0, 1, 0, 0, 0, 0), (1.0, 0, 0, 1, 0, 0, 0, 0)])
    monkeypatch.setattr(psutil, "cpu_times", lambda **_: times.now)
    cpu = sources.make("cpu", {})
    cpu.read()
    times.now = times.now[:1]
    assert "cpu_percent" not in cpu.read()
    times.now = [(2.0, 0, 0, 1, 0, 0, 0, 0)]
    assert cpu.read()["cpu_percent"] == 100.0


def test_loopback_is_no_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    loopback = next(name for name, state in psutil.net_if_stats().items() if "loopback" in state.flags)
    assert [key for key in twice(Network()) if key.startswith(f"{loopback}_")] == []
    only = {loopback: psutil.net_if_stats()[loopback]}
    monkeypatch.setattr(psutil, "net_if_stats", lambda: only)
    with pytest.raises(AbsentError, match="loopback"):
        Network().read()


def test_rates_are_per_second_and_leave_out_what_started_over() -> None:
    rates = Rates()
    assert rates.since_last({"a": 100, "b": 100}, 10.0) == {}
    assert rates.since_last({"a": 150, "b": 40, "c": 7}, 20.0) == {"a": 5.0}
    assert rates.since_last({"a": 150, "b": 60, "c": 8}, 22.0) == {"a": 0.0, "b": 10.0, "c": 0.5}
    assert rates.since_last({"a": 999}, 22.0) == {}


def test_a_device_that_is_mounted_twice_counts_once_by_its_shortest_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    inner = tmp_path / "var"
    inner.mkdir()
    parts = [
        SimpleNamespace(device="/dev/sda1", mountpoint=str(inner)),
        SimpleNamespace(device="/dev/sda1", mountpoint=str(tmp_path)),
        SimpleNamespace(device="/dev/sdb1", mountpoint=str(tmp_path / "gone")),
    ]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: parts)
    name = slug(str(tmp_path))
    assert set(Disk().read()) == {f"{name}_percent", f"{name}_free_bytes", f"{name}_total_bytes"}


def test_no_sensor_at_all_is_absence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "sensors_temperatures", dict)
    monkeypatch.setattr(psutil, "sensors_fans", dict)
    with pytest.raises(AbsentError):
        Thermal().read()


def test_sensors_of_the_same_name_keep_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def sensor(label: str, current: float) -> SimpleNamespace:
        return SimpleNamespace(label=label, current=current)

    temperatures = {"cpu_thermal": [sensor("", 48.312)], "nvme": [sensor("Composite", 30), sensor("Composite", 31)]}
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: temperatures)
    monkeypatch.setattr(psutil, "sensors_fans", lambda: {"pwmfan": [sensor("", 2400)]})
    assert Thermal().read() == {
        "cpu_thermal_celsius": 48.3,
        "nvme_composite_celsius": 30,
        "nvme_composite_2_celsius": 31,
        "pwmfan_rpm": 2400,
    }


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("0\n", (False, False, False)),
        ("50000\n", (False, False, True)),
        ("50005\n", (True, True, True)),
        ("80008\n", (False, True, True)),
        ("20002\n", (False, True, True)),
    ],
)
def test_throttling_is_told_as_the_firmware_of_a_raspberry_pi_has_it(
    tmp_path: Path, flags: str, expected: tuple[bool, bool, bool]
) -> None:
    file = tmp_path / "devices/platform/soc/soc:firmware/get_throttled"
    file.parent.mkdir(parents=True)
    file.write_text(flags, encoding="ascii")
    values = Host(sys=tmp_path).read()
    assert (values["under_voltage"], values["throttled"], values["throttled_since_boot"]) == expected


def test_throttling_is_counted_as_the_kernel_has_it_on_x86(tmp_path: Path) -> None:
    file = tmp_path / "devices/system/cpu/cpu0/thermal_throttle/package_throttle_count"
    file.parent.mkdir(parents=True)
    file.write_text("12\n", encoding="ascii")
    values = Host(sys=tmp_path).read()
    assert values["throttle_count"] == 12
    assert "throttled" not in values


def test_a_machine_that_does_not_tell_of_throttling_is_no_failure(tmp_path: Path) -> None:
    assert set(Host(sys=tmp_path).read()) == {"uptime_s", "boot_ts", "processes"}


@pytest.mark.parametrize(
    ("text", "name"), [("/", ""), ("/boot/firmware", "boot_firmware"), ("Package id 0", "package_id_0"), ("ä-é", "")]
)
def test_a_slug_is_lower_case_with_single_underscores(text: str, name: str) -> None:
    assert slug(text) == name

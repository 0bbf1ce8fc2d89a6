"""Settings one by one: what they take, what they refuse, and what stands for something else."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import SettingsError
from agent.model import Server
from agent.settings.units import seconds, size
from agent.sources import STARTED
from tests.support.machine import STREAM, Machine

SECRET = "hunter2"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


# Values.


@pytest.mark.parametrize(
    ("text", "expected"),
    [("7", 7), ("0.25", 0.25), ('"500ms"', 0.5), ('"10s"', 10), ('" 5 m "', 300), ('"1.5h"', 5400), ('"1d"', 86_400)],
)
def test_durations_are_seconds_or_have_a_unit(machine: Machine, text: str, expected: float) -> None:
    assert machine.settings(f"health.interval = {text}").health.interval == pytest.approx(expected)


def test_whole_seconds_take_units_too(machine: Machine) -> None:
    broker = machine.settings('[broker]\nkeep_alive = "1m"\nsession_expiry = "7d"').broker
    assert (broker.keep_alive, broker.session_expiry) == (60, 604_800)
    (line,) = machine.wrong('broker.session_expiry = "500ms"')
    assert "broker.session_expiry = 0.5: must be a valid integer" in line


@pytest.mark.parametrize(
    "text",
    ["true", "nan", "inf", "-inf", "-1", "9" * 400, "[]", "{}", "1979-05-27", '""', '"s"', '"-5s"', '"10 S"', '"1w"',
     '"10s 5s"', '"nan"', '"inf"', f'"{"9" * 400}"', f'"{"9" * 400}d"'],
)  # fmt: skip
def test_what_is_no_duration_is_refused(machine: Machine, text: str) -> None:
    for key in ("health.interval", "broker.keep_alive", "streams.cpu.interval", "broker.backoff.cap"):
        (line,) = machine.wrong(f"{key} = {text}")
        assert line.startswith(f"FILE: {key}")


@pytest.mark.parametrize(
    ("text", "expected"), [("2048", 2048), ('"2048"', 2048), ('"64KiB"', 65_536), ('"1 MiB"', 2**20)]
)
def test_sizes_are_bytes_or_have_a_unit(machine: Machine, text: str, expected: int) -> None:
    assert machine.settings(f"ingest.max_line = {text}").ingest.max_line == expected


@pytest.mark.parametrize(
    "text",
    ["true", "nan", "2048.0", "-2048", "1023", "9" * 400, '""', '"64kb"', '"1.5KiB"', '"1GiB"', f'"{"9" * 5000}"'],
)
def test_what_is_no_size_is_refused(machine: Machine, text: str) -> None:
    (line,) = machine.wrong(f"ingest.max_line = {text}")
    assert line.startswith("FILE: ingest.max_line = ")


@pytest.mark.parametrize(
    "text",
    ["broker = 5", "streams = []", "streams.cpu = 5", "[[broker]]", "streams.x.qos = true",
     "broker.max_inflight = true", "outbox.backlog_share = 1", "outbox.backlog_share = nan", "device_id = 5",
     "streams.x.priority = 10",
     'broker.clean_start = "maybe"', "[broker.urls]", "broker.password_file = 5", 'log.level = "DEBUG"',
     "[broker]\nbackoff = {base = 40, cap = 30}", 'broker.username = "a\\u0000"', 'broker.client_id = "ä"',
     'topics.prefix = "a/#"', 'topics.prefix = "/a"', 'topics.prefix = "$SYS"', 'topics.prefix = "a//b"',
     'topics.prefix = "{host}"', 'topics.prefix = ""', f'topics.prefix = "{"x" * 70_000}"'],
)  # fmt: skip
def test_what_does_not_fit_is_told_in_one_line_that_names_the_file(machine: Machine, text: str) -> None:
    (line,) = machine.wrong(text)
    assert line.startswith("FILE: ")
    assert "Input" not in line
    assert len(line) < 300


@pytest.mark.parametrize(("text", "version"), [('"5"', "5"), ("5", "5"), ('"3.1.1"', "3.1.1")])
def test_the_protocol_is_5_or_3_1_1(machine: Machine, text: str, version: str) -> None:
    assert machine.settings(f"broker.protocol = {text}").broker.protocol == version


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("", 1000),
        ("streams.x.qos = 2", 1000),
        ('broker.protocol = "3.1.1"', 1000),
        ('broker.protocol = "3.1.1"\nstreams.x.qos = 2', 20),
        ('broker.protocol = "3.1.1"\ningest.defaults.qos = 2', 20),
        ('broker = {protocol = "3.1.1", max_inflight = 50}\nstreams.x.qos = 2', 50),
        ('broker = {protocol = "3.1.1", max_inflight = 5}\nstreams.x.qos = 2', 5),
    ],
)
def test_the_window_is_small_where_no_broker_tells_what_it_takes(machine: Machine, text: str, window: int) -> None:
    assert machine.settings(text).window == window


@pytest.mark.parametrize("text", ['"3.1"', '"4"', "4", "3.1", "5.5", "true", '""', '["5"]', "{}"])
def test_what_is_no_version_of_mqtt_is_refused_with_those_that_are(machine: Machine, text: str) -> None:
    (line,) = machine.wrong(f"broker.protocol = {text}")
    assert "broker.protocol" in line
    assert '"5" or "3.1.1"' in line.replace("'", '"')


def test_a_variable_that_is_not_utf8_is_refused(machine: Machine) -> None:
    assert machine.wrong(ROAMD_BROKER__USERNAME="\udcff") == ["ROAMD_BROKER__USERNAME: not UTF-8"]


# What stands for something else.


def test_a_host_name_that_does_not_fit_asks_for_a_device_id(machine: Machine) -> None:
    for hostname in ("", "my robot", "x" * 65, "roböt"):
        with pytest.raises(SettingsError, match=r"\Athe host name: device_id = .*; set device_id\Z"):
            machine.load(hostname=hostname)
    machine.write('device_id = "R2.d-2_"')
    assert machine.load(hostname="my robot").settings.device_id == "R2.d-2_"
    assert machine.wrong('device_id = "my robot"') == [
        "FILE: device_id = 'my robot': must be 1 to 64 of A-Z a-z 0-9 . _ -"
    ]


def test_the_device_id_goes_where_its_placeholder_is(machine: Machine) -> None:
    settings = machine.settings(
        'topics.prefix = "site/{device_id}/x"\nbroker.client_id = "r-{device_id}"\ndevice_id="a"'
    )
    assert (settings.topics.prefix, settings.broker.client_id) == ("site/a/x", "r-a")


@pytest.mark.parametrize(
    ("environ", "outbox", "socket"),
    [
        ({"STATE_DIRECTORY": "/s:/t", "RUNTIME_DIRECTORY": "/r:/q"}, "/s/outbox.db", "/r/roamd.sock"),
        ({"STATE_DIRECTORY": "/s"}, "/s/outbox.db", "/s/roamd.sock"),
        ({}, f"{Path.cwd()}/roamd-state/outbox.db", f"{Path.cwd()}/roamd-state/roamd.sock"),
        ({"ROAMD_OUTBOX__PATH": "/d/o.db"}, "/d/o.db", "/d/roamd.sock"),
        ({"ROAMD_OUTBOX__PATH": "$RUNTIME_DIRECTORY/o", "RUNTIME_DIRECTORY": "/r"}, "/r/o", "/r/roamd.sock"),
        ({"ROAMD_OUTBOX__PATH": "o", "ROAMD_INGEST__SOCKET": "../s"}, f"{Path.cwd()}/o", str(Path.cwd().parent / "s")),
    ],
)
def test_paths_are_in_the_folders_of_systemd_or_here(
    machine: Machine, environ: dict[str, str], outbox: str, socket: str
) -> None:
    settings = machine.settings(**environ)
    assert (str(settings.outbox.path), str(settings.ingest.socket)) == (outbox, socket)


@pytest.mark.parametrize(
    "path", ["", ".", "/", "..", "$STATE_DIRECTORY", "$HOME/o.db", "~/o.db", "a/$USER/o.db", "a\\u0000"]
)
def test_a_path_that_is_no_file_or_holds_another_variable_is_refused(machine: Machine, path: str) -> None:
    for key in ("outbox.path", "ingest.socket"):
        (line,) = machine.wrong(f'{key} = "{path}"')
        assert re.match(rf"FILE: {key} = .*: (must be the path of a file|knows only \$STATE_DIRECTORY and)", line)


# The password.


def test_the_password_comes_from_the_environment_a_file_or_a_credential(machine: Machine, tmp_path: Path) -> None:
    file = machine.write(f"{SECRET}-file\r\n", to="password")
    machine.write(f"{SECRET}-credential", to="mqtt-password")
    by_file = f'broker.username = "u"\nbroker.password_file = "{file}"'
    by_credential = 'broker.username = "u"'
    for text, environ, ending in [
        (by_credential, {"CREDENTIALS_DIRECTORY": str(tmp_path / "none")}, None),
        (by_credential, {"CREDENTIALS_DIRECTORY": str(machine.etc)}, "-credential"),
        (by_file, {"CREDENTIALS_DIRECTORY": str(machine.etc)}, "-file"),
        (by_file, {"ROAMD_BROKER__PASSWORD": f"{SECRET}-variable"}, "-variable"),
    ]:
        password = machine.settings(text, **environ).broker.password
        assert (password and password.get_secret_value()) == (ending and SECRET + ending)
        assert SECRET not in repr(machine.load(**environ))


def test_a_password_in_a_settings_file_is_refused(machine: Machine) -> None:
    for value in (f'"{SECRET}"', f'{{x = "{SECRET}"}}', "5"):
        (line,) = machine.wrong(f'[broker]\nusername = "u"\npassword = {value}')
        assert line.startswith(
            "FILE: broker.password: a password does not belong into this file; set broker.password_file"
        )
        assert SECRET not in line


@pytest.mark.parametrize(
    ("text", "environ", "told"),
    [
        ("", {"ROAMD_BROKER__PASSWORD": SECRET}, "ROAMD_BROKER__PASSWORD: there is a password, but no broker.username"),
        ('broker.username = "u"', {"ROAMD_BROKER__PASSWORD": SECRET * 9999}, "ROAMD_BROKER__PASSWORD: the password"),
        ("", {"ROAMD_BROKER__PASSWORD__X": SECRET}, "ROAMD_BROKER__PASSWORD__X: unknown variable"),
        ("", {"ROAMD_BROKER": json.dumps({"password": SECRET})}, "ROAMD_BROKER: unknown variable"),
        ("", {"ROAMD_BROKER__PASSWORD": SECRET, "ROAMD_LOG__LEVEL": "x"}, "ROAMD_LOG__LEVEL"),
        (f'broker.passwort = "{SECRET}"', {}, "FILE: unknown key broker.passwort"),
        (f'broker.urls = "mqtt://u:{SECRET}@h"', {}, "FILE: broker.urls: a user does not belong into the URL"),
        (f'broker.urls = "mqtts://u:{SECRET}@[h"', {}, "FILE: broker.urls: must be mqtt://HOST"),
        ("", {"ROAMD_BROKER__URLS": f"mqtt://u:{SECRET}@℀"}, "ROAMD_BROKER__URLS: broker.urls: must be mqtt://HOST"),
        ("", {"ROAMD_BROKER__URLS": f'["mqtt://u:{SECRET}@h"'}, "ROAMD_BROKER__URLS: neither a URL nor a JSON list"),
        ('broker.password_file = "/nonexistent"', {}, "cannot read the password in /nonexistent: No such file"),
        ('broker.password_file = "/"', {}, "cannot read the password in /: Is a directory"),
        ('broker.password_file = "a\\u0000"', {}, "cannot read the password in 'a\\x00': embedded null"),
    ],
)  # fmt: skip
def test_no_error_shows_a_password(machine: Machine, text: str, environ: dict[str, str], told: str) -> None:
    (line,) = machine.wrong(text, **environ)
    assert line.startswith(told)
    assert SECRET not in line


def test_a_password_that_is_not_utf8_is_refused_without_its_bytes(machine: Machine) -> None:
    file = machine.write(b"\xffsecret", to="password")
    assert machine.wrong(f'broker.password_file = "{file}"') == [f"cannot read the password in {file}: not UTF-8"]


# The files of TLS.


def test_the_files_of_tls_are_those_of_the_settings_or_else_the_credentials(machine: Machine) -> None:
    for name in ("ca.pem", "client.pem", "client.key"):
        machine.write("", to=name)
    loaded = machine.load(ROAMD_BROKER__CERT_FILE="own.pem", CREDENTIALS_DIRECTORY=str(machine.etc))
    broker = loaded.settings.broker
    assert broker.ca_file == machine.etc / "ca.pem"
    assert broker.cert_file == Path.cwd() / "own.pem"
    assert broker.key_file == machine.etc / "client.key"
    assert loaded.origins["broker", "ca_file"] == "the credential ca.pem"
    assert loaded.origins["broker", "cert_file"] == "ROAMD_BROKER__CERT_FILE"
    broker = machine.settings("broker.ca_file = ''", CREDENTIALS_DIRECTORY=str(machine.etc / "none")).broker
    assert (broker.ca_file, broker.cert_file, broker.key_file) == (None, None, None)


def test_a_key_without_a_certificate_is_refused(machine: Machine) -> None:
    told = "broker.key_file: there is a key, but no certificate for it; set broker.cert_file"
    assert machine.wrong("broker.key_file = '/k'") == [f"FILE: {told}"]
    machine.write("", to="client.key")
    assert machine.wrong(CREDENTIALS_DIRECTORY=str(machine.etc)) == [f"the credential client.key: {told}"]


# The broker.


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("mqtt://h", "h", 1883),
        ("mqtt://h:1884/", "h", 1884),
        ("mqtt://[::1]:1", "::1", 1),
        ("MQTT://10.0.0.1", "10.0.0.1", 1883),
        ("mqtts://h", "h", 8883),
        ("mqtts://h:1883", "h", 1883),
        ("MQTTS://[::1]", "::1", 8883),
    ],
)
def test_a_broker_is_a_url_or_a_list_of_one(machine: Machine, url: str, host: str, port: int) -> None:
    server = Server(host=host, port=port, is_tls=url.lower().startswith("mqtts"))
    for broker in (
        machine.settings(f'broker.urls = "{url}"').broker,
        machine.settings(f'broker.urls = ["{url}"]').broker,
        machine.settings(ROAMD_BROKER__URLS=url).broker,
        machine.settings(ROAMD_BROKER__URLS=f'["{url}"]').broker,
    ):
        assert broker.servers == (server,)


@pytest.mark.parametrize(
    ("url", "told"),
    [("mqtts://h/a", "nothing may follow"), ("mqtt://h/a", "nothing may follow"), ("mqtt://a,mqtt://b", "nothing may"),
     ("mqtt://:1883", "the host is missing"), ("mqtt://h:0", "the host is missing, or the port is not 1 to 65535"),
     ("mqtt://h:65536", "the host is missing"), ("mqtt://fe80::1", "the host is missing"), ("mqtt://a..b", "no name"),
     ("mqtt://" + "h" * 64, "no name"), *((url, "must be mqtt://HOST, mqtts://HOST (TLS), or one of") for url in
     ("", "h", "h:1883", "tcp://h", "mqtts:h", "mqtts://", "ssl://h", "mqtt:h", "mqtt://", "mqtt://[::1", "mqtt://h h",
      " mqtt://h", "mqtt://h\n"))],
)  # fmt: skip
def test_what_is_no_broker_is_refused(machine: Machine, url: str, told: str) -> None:
    (line,) = machine.wrong(f"broker.urls = {json.dumps(url)}")
    assert line.startswith("FILE: broker.urls = ")
    assert told in line


def test_several_brokers_keep_their_order_and_each_stands_there_once(machine: Machine) -> None:
    brokers = machine.settings('broker.urls = ["mqtt://b", "mqtt://a:1884", "mqtt://a"]').broker.servers
    assert [str(server) for server in brokers] == ["b:1883", "a:1884", "a:1883"]
    assert "names a:1883 twice" in machine.wrong('broker.urls = ["mqtt://a", "mqtt://a:1883"]')[0]
    assert "must name a broker" in machine.wrong("broker.urls = []")[0]


def test_referrals_are_names_of_hosts(machine: Machine) -> None:
    given = machine.settings('broker.referrals = ["b.example", "*.c.example"]').broker.referrals
    assert given == ("b.example", "*.c.example")
    assert machine.settings('broker.referrals = "b.example"').broker.referrals == ("b.example",)
    for name in ("", "*.", "a b", "mqtt://a"):
        assert "holds host names" in machine.wrong(f'broker.referrals = ["{name}"]')[0]


# Streams.


def test_a_table_changes_a_builtin_stream_or_adds_one(machine: Machine) -> None:
    streams = machine.settings(
        '[streams.cpu]\nenabled = false\n[streams."a.b"]\n', ROAMD_STREAMS__IMU__PRIORITY="9"
    ).streams
    assert streams["cpu"].model_dump() == {"source": "cpu", **STREAM, "enabled": False}
    assert streams["a.b"].model_dump() == {"source": "", **STREAM}
    assert streams["imu"].model_dump() == {"source": "", **STREAM, "priority": 9}
    assert set(streams) == {*STARTED, "a.b", "imu"}
    for name in ("a b", "", "a/b", "x" * 65):
        assert "must be 1 to 64 of" in machine.wrong(f'[streams."{name}"]')[0]


def test_qos_follows_delivery(machine: Machine) -> None:
    assert machine.settings('streams.x.delivery = "live"').streams["x"].qos == 0
    assert machine.settings('streams.x = {delivery = "live", qos = 0}').streams["x"].qos == 0
    assert machine.settings('streams.x.delivery = "synced"').streams["x"].qos == 1
    assert machine.wrong('streams.x = {delivery = "live", qos = 1}') == [
        "FILE: streams.x: qos is 0 where delivery is live"
    ]
    assert "qos 0 cannot keep what delivery stored promises" in machine.wrong("streams.x.qos = 0")[0]
    assert machine.settings("streams.x.qos = 2").streams["x"].qos == 2
    assert "streams.x.qos = 3: must be less" in machine.wrong("streams.x.qos = 3")[0]


# Units.


@given(
    number=st.integers(0, 10**6), unit=st.sampled_from([("ms", 0.001), ("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)])
)
def test_a_duration_is_its_number_times_its_unit(number: int, unit: tuple[str, float]) -> None:
    assert seconds(f"{number}{unit[0]}") == pytest.approx(number * unit[1])
    assert seconds(str(number)) == seconds(number) == number


@given(number=st.integers(0, 10**6), power=st.integers(0, 3))
def test_a_size_is_its_number_times_a_power_of_1024(number: int, power: int) -> None:
    assert size(f"{number}{['B', 'KiB', 'MiB', 'GiB'][power]}") == number * 1024**power
    assert size(str(number)) == size(number) == number


def test_dead_bands_are_a_table_and_json_in_a_variable(machine: Machine) -> None:
    settings = machine.settings("streams.x.on_change = {t = 0.5, '*' = 0}", ROAMD_STREAMS__CPU__ON_CHANGE='{"mhz": 5}')
    assert settings.streams["x"].on_change == {"t": 0.5, "*": 0}
    assert settings.streams["cpu"].on_change == {"mhz": 5}
    for wrong in ("{t = -1}", "{t = true}", "{t = 'x'}", "{t = nan}", "5", "'{t'", "[1]"):
        assert "streams.x.on_change" in machine.wrong(f"streams.x.on_change = {wrong}")[0]


def test_batches_are_only_where_they_make_sense(machine: Machine) -> None:
    stream = machine.settings('streams.x = {batch = 50, batch_for = "200ms"}').streams["x"]
    assert (stream.batch, stream.batch_for) == (50, 0.2)
    assert "goes alone" in machine.wrong('streams.x = {delivery = "live", batch = 2}')[0]
    assert "does nothing where batch is 1" in machine.wrong("streams.x.batch_for = 1")[0]
    assert (
        "streams.x.batch_for (5 s) must be below outbox.fresh_for (5 s)"
        in machine.wrong("streams.x = {batch = 9, batch_for = 5}")[0]
    )
    assert "ingest.defaults.batch_for" in machine.wrong("ingest.defaults = {batch = 9, batch_for = 9}")[0]


def test_streams_without_a_table_have_defaults_of_their_own(machine: Machine) -> None:
    defaults = machine.settings('ingest.defaults = {delivery = "synced", priority = 2}').ingest.defaults
    assert (defaults.delivery, defaults.priority, defaults.qos) == ("synced", 2, 1)
    assert "did you mean ingest.defaults.priority?" in machine.wrong("ingest.defaults.prioriti = 2")[0]


# Sources.


def test_a_source_that_is_not_there_and_options_that_it_does_not_take_are_told(machine: Machine) -> None:
    assert "streams.x: there is no source 'cpuu'; did you mean 'cpu'?" in machine.wrong('streams.x.source = "cpuu"')[0]
    assert machine.wrong('streams.x = {source = "cpu", options = {core = 1}}') == [
        "FILE: streams.x: options: unknown key 'core'; there are none"
    ]
    assert "there is none: set source" in machine.wrong("streams.x.options = {core = 1}")[0]


def test_options_in_a_variable_are_json(machine: Machine) -> None:
    assert machine.settings(ROAMD_STREAMS__CPU__OPTIONS="{}").streams["cpu"].options == {}
    assert "in a variable JSON" in machine.wrong(ROAMD_STREAMS__CPU__OPTIONS="{")[0]

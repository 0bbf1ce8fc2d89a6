"""What is kept, in a real SQLite file."""

import itertools
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli import main
from agent.clock import unix_ms
from agent.errors import StorageError
from agent.ground import desired, figures, sessions
from agent.ground.file import opened, opened_existing
from agent.ground.ledger import Ledger
from agent.ground.prefix import Prefix
from agent.ground.reading import Reading, Request, read
from agent.model import Inbound

PREFIX = Prefix.parse("device/+")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with opened(tmp_path / "ground.db") as opened_one:
        yield opened_one


def reading(below: str, body: object, *, qos: int = 1) -> Reading:
    payload = json.dumps(body).encode()
    one = Inbound(topic=f"device/rover/{below}", payload=payload, qos=qos, retain=False, dup=False, packet_id=1)
    return read(one, PREFIX)


def records(*numbers: tuple[int, int], qos: int = 1, ts: int = 1) -> Reading:
    return reading("telemetry/imu", [{"ts": ts, "epoch": epoch, "seq": seq} for epoch, seq in numbers], qos=qos)


def apply(database: sqlite3.Connection, *readings: Reading, now: int = 1) -> None:
    Ledger(database).apply(readings, {"rover"}, now=now)


def dump(database: sqlite3.Connection) -> list[str]:
    return [line for line in database.iterdump() if not line.startswith('INSERT INTO "stream"')]


def imu(database: sqlite3.Connection) -> figures.StreamFigures:
    (device,) = figures.devices(database)
    (stream,) = device.streams
    return stream


identities = st.tuples(st.integers(1, 2), st.integers(1, 30))


@given(st.lists(st.lists(st.lists(identities, max_size=12), max_size=4), max_size=6))
def test_whatever_comes_in_whatever_order_each_record_is_here_once(batches: list[list[list[tuple[int, int]]]]) -> None:
    with opened(Path(":memory:")) as database:
        ledger, here, arrivals = Ledger(database), set[tuple[int, int]](), 0
        for batch in batches:
            ledger.apply([records(*numbers) for numbers in batch], set(), now=1)
            here |= {identity for numbers in batch for identity in numbers}
            arrivals += sum(map(len, batch))
        kept = [(epoch, seq) for epoch, seq, *_ in figures.records(database, "rover", "imu")]
        assert kept == sorted(here)
        ranges = database.execute("SELECT epoch, first, last FROM received ORDER BY epoch, first").fetchall()
        assert {(e, n) for e, first, last in ranges for n in range(first, last + 1)} == here
        assert all(a[0] < b[0] or a[2] + 1 < b[1] for a, b in itertools.pairwise(ranges))
        counts = database.execute("SELECT sum(records), sum(doubles), sum(conflicts) FROM stream").fetchone()
        assert counts == ((len(here), arrivals - len(here), 0) if batches and any(map(len, batches)) else counts)


def test_the_same_messages_twice_change_nothing(database: sqlite3.Connection) -> None:
    some = (
        records((1, 1), (1, 2), (1, 5)),
        reading("event/door", {"ts": 1, "epoch": 1, "seq": 1, "id": "rover-door-1-1"}),
        reading("status", {"status": "online", "epoch": 1, "connection": 1, "ts": 3}),
        reading("status", {"status": "lost", "epoch": 1, "connection": 1}),
        reading("state", {"version": 3, "reported": {"a": 1}}),
        reading("health", {"ts": 1}),
        reading("loss", {"ts": 1, "stream": "imu", "epoch": 1, "first_seq": 3, "last_seq": 4, "count": 2,
                         "reason": "evicted"}),
        reading("result/dock", {"id": "a", "status": "accepted"}),
        reading("result/dock", {"id": "a", "status": "succeeded"}),
    )  # fmt: skip
    apply(database, *some)
    before = dump(database)
    apply(database, *some)
    for one in some:
        apply(database, one)
    assert dump(database) == before
    assert (imu_of(database).records, imu_of(database).doubles, imu_of(database).conflicts) == (3, 6, 0)


def imu_of(database: sqlite3.Connection) -> figures.StreamFigures:
    (device,) = figures.devices(database)
    return next(stream for stream in device.streams if stream.name == "imu")


def test_a_gap_is_explained_by_a_loss_report_and_missing_without(database: sqlite3.Connection) -> None:
    loss = {"ts": 1, "stream": "imu", "epoch": 1, "first_seq": 4, "last_seq": 6, "count": 2, "reason": "thinned"}
    apply(database, records((1, 1), (1, 5), (1, 9), (2, 3)), reading("loss", loss))
    stream = imu(database)
    assert stream.lost == 2
    first, second = stream.gaps
    assert (first.epoch, first.missing, first.explained, first.before) == (1, ((2, 3), (7, 8)), ((4, 4), (6, 6)), ())
    assert (second.epoch, second.missing) == (2, ((1, 2),))
    assert (stream.count("missing"), stream.count("explained"), stream.newest) == (6, 2, (2, 3))
    apply(database, records(*[(1, seq) for seq in range(2, 9)], (2, 1), (2, 2)))
    assert imu(database).gaps == ()


def test_what_was_sent_before_anybody_listened_is_not_missing(database: sqlite3.Connection) -> None:
    apply(database, records((7, 100)))
    apply(database, records((7, 103), (8, 2), (6, 5)))
    stream = imu(database)
    assert stream.count("before") == 99 + 4
    assert [(gaps.epoch, gaps.missing) for gaps in stream.gaps if gaps.missing] == [(7, ((101, 102),)), (8, ((1, 1),))]


def test_what_a_live_stream_lacks_was_dropped(database: sqlite3.Connection) -> None:
    apply(database, records((1, 1), qos=0), records((1, 4), qos=0))
    assert (imu(database).count("missing"), imu(database).count("dropped")) == (0, 2)


def test_an_identity_that_was_given_twice_is_told(
    database: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    apply(database, records((1, 1), (1, 2), ts=5))
    apply(database, records((1, 1), ts=6))
    assert imu(database).conflicts == 1
    assert "two agents with one device_id" in caplog.text
    assert [ts for _, _, ts, _ in figures.records(database, "rover", "imu")] == [5, 5]


def status(name: str, epoch: int, connection: int) -> Reading:
    return reading("status", {"status": name, "epoch": epoch, "connection": connection})


def test_a_stale_status_is_ignored(database: sqlite3.Connection) -> None:
    def now() -> tuple[Any, ...]:
        (device,) = figures.devices(database)
        assert device.status is not None
        return device.status["status"], device.status["epoch"], device.status["connection"]

    for told, expected in (
        (("online", 2, 1), ("online", 2, 1)),
        (("lost", 1, 9), ("online", 2, 1)),
        (("online", 2, 2), ("online", 2, 2)),
        (("lost", 2, 1), ("online", 2, 2)),
        (("lost", 2, 2), ("lost", 2, 2)),
        (("online", 2, 2), ("lost", 2, 2)),
        (("online", 3, 1), ("online", 3, 1)),
    ):
        apply(database, status(*told))
        assert now() == expected


def test_the_newest_state_by_version_is_kept(database: sqlite3.Connection) -> None:
    for version in (2, 1, 4, 3):
        apply(database, reading("state", {"version": version, "reported": {}, "desired_version": version}))
    (device,) = figures.devices(database)
    assert device.state is not None
    assert (device.state["version"], device.applied_version) == (4, 4)


def test_accepted_gives_way_to_the_result_and_not_the_other_way_round(database: sqlite3.Connection) -> None:
    for one in ("accepted", "succeeded", "accepted", "failed"):
        apply(database, reading("result/dock", {"id": "a", "status": one}))
    assert database.execute("SELECT status FROM result").fetchall() == [("succeeded",)]


def test_a_batch_is_applied_wholly_or_not_at_all(database: sqlite3.Connection) -> None:
    ledger = Ledger(database)
    database.execute("CREATE TRIGGER t BEFORE INSERT ON loss BEGIN SELECT raise(ABORT, 'no'); END")
    loss = {"ts": 1, "stream": "imu", "epoch": 1, "first_seq": 4, "last_seq": 6, "count": 2, "reason": "thinned"}
    with pytest.raises(StorageError, match="no"):
        ledger.apply([records((1, 1)), reading("loss", loss)], {"rover"}, now=1)
    assert figures.devices(database) == []
    database.execute("DROP TRIGGER t")
    ledger.apply([records((1, 1)), reading("loss", loss)], {"rover"}, now=1)
    assert imu(database).records == 1


# What is printed.


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(["ground", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_devices_and_records_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = tmp_path / "g.db"
    with opened(db) as database:
        apply(database, records((1, 1), (1, 4), (2, 1)), records((1, 1), ts=9), status("online", 2, 1), now=unix_ms())
        Ledger(database).apply([read(odd_device(), PREFIX)], (), now=1)
    header, odd, rover, missing, conflict = shown(capsys, "devices", "--db", str(db))
    assert header.split() == ["device", "status", "epoch", "seen", "records", "doubled", "missing", "explained"]
    assert odd.split() == [r"'\x1b[2J'", "-", "-", "-", "1", "0", "0", "0"]
    assert rover.split() == ["rover", "online", "2", "0s", "ago", "3", "1", "2", "0"]
    assert missing == "rover imu: missing of epoch 1: 2-3"
    assert conflict == "rover imu: 1 records have an identity that another record has"
    assert shown(capsys, "records", "rover", "imu", "--db", str(db)) == ["1/1\t1\t{}", "1/4\t1\t{}", "2/1\t1\t{}"]
    first = json.loads(shown(capsys, "records", "rover", "imu", "--json", "--db", str(db))[0])
    assert first == {"ts": 1, "epoch": 1, "seq": 1}
    devices = [json.loads(line) for line in shown(capsys, "devices", "--json", "--db", str(db))]
    assert [(one["name"], one["streams"][0]["missing"]) for one in devices] == [("\x1b[2J", 0), ("rover", 2)]
    assert main(["ground", "records", "rover", "gps", "--db", str(db)]) == 74


def odd_device() -> Inbound:
    """One whose name would clear a terminal."""
    body = b'{"ts":1,"epoch":1,"seq":1}'
    return Inbound(topic="device/\x1b[2J/telemetry/imu", payload=body, qos=1, retain=True, dup=False, packet_id=1)


# The desired state.


def answer(database: sqlite3.Connection, *, desired_version: int = 0, sent: frozenset[str] = frozenset()) -> Any:  # noqa: ANN401
    request = Request(
        device="rover", response_topic="x", correlation_data=None, desired_version=desired_version, sent=sent
    )
    return json.loads(desired.answer(database, request))


def test_an_answer_has_the_desired_state_where_it_is_news_and_what_was_received(database: sqlite3.Connection) -> None:
    assert answer(database) == {"received": {}}
    apply(database, records((1, 1), (1, 2), (1, 9), (2, 1)))
    version, push = desired.change(database, "rover", {"streams": {"imu": {"interval": 2}}})
    assert json.loads(push) == {"version": version, "desired": {"streams": {"imu": {"interval": 2}}}}
    received = {"imu": [[1, 1, 2], [1, 9, 9], [2, 1, 1]]}
    assert answer(database) == {**json.loads(push), "received": received}
    assert answer(database, desired_version=version) == {"received": received}


def test_a_version_is_above_all_that_the_device_knows(database: sqlite3.Connection) -> None:
    apply(database, reading("get_state", {"desired_version": 41}))
    assert desired.change(database, "rover", {"a": 1})[0] == 42
    assert desired.change(database, "rover", {"b": {"c": 1}})[0] == 43
    _, push = desired.change(database, "rover", {"a": None, "b": {"d": 2}})
    assert json.loads(push)["desired"] == {"b": {"c": 1, "d": 2}}


def test_an_answer_stays_small_and_has_the_newest(database: sqlite3.Connection) -> None:
    apply(database, records(*[(1, seq) for seq in range(1, 2001, 2)]))
    ranges = answer(database)["received"]["imu"]
    assert len(ranges) <= 32
    assert ranges == sorted(ranges)
    assert ranges[-1] == [1, 1999, 1999]


def test_a_live_stream_is_answered_for_only_where_it_is_asked_for(database: sqlite3.Connection) -> None:
    apply(database, records((1, 1), qos=0))
    assert answer(database) == {"received": {}}
    assert answer(database, sent=frozenset({"imu"})) == {"received": {"imu": [[1, 1, 1]]}}


# The file.


def test_what_another_process_wrote_meanwhile_counts(tmp_path: Path) -> None:
    with opened(tmp_path / "g.db") as one, opened(tmp_path / "g.db") as other:
        first, second = Ledger(one), Ledger(other)
        for seq in range(1, 20):
            first.apply([records((1, seq))], {"rover"}, now=1)
            second.apply([records((1, seq), (1, seq + 1))], {"rover"}, now=1)
        assert (imu(one).records, imu(one).gaps) == (20, ())
        assert sessions.own_client_id(one) == sessions.own_client_id(other)


def test_a_file_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    sqlite3.connect(path).execute("CREATE TABLE t (x)").connection.close()
    before = path.read_bytes()
    with pytest.raises(StorageError, match="another program"), opened(path):
        pass
    assert path.read_bytes() == before
    with pytest.raises(StorageError, match="there is no"), opened_existing(tmp_path / "none.db"):
        pass
    with opened(path.with_name("new.db")) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(StorageError, match="newer roamd"), opened(path.with_name("new.db")):
        pass


def test_grants_are_forgotten_with_the_session(database: sqlite3.Connection) -> None:
    sessions.grant(database, "me", "a:1", ["x", "y"])
    sessions.grant(database, "me", "a:1", ["y"])
    sessions.grant(database, "me", "b:1", ["z"])
    assert sessions.granted(database, "me", "a:1") == {"x", "y"}
    sessions.forget(database, "me", "a:1")
    assert sessions.granted(database, "me", "a:1") == set()
    assert sessions.granted(database, "me", "b:1") == {"z"}

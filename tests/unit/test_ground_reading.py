"""What messages say, whoever wrote them."""

import json
import zlib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.ground.prefix import Prefix
from agent.ground.reading import (
    MOST_DECOMPRESSED,
    Condition,
    Loss,
    Records,
    Request,
    Result,
    State,
    Status,
    UnreadableError,
    read,
)
from agent.model import Inbound

PREFIX = Prefix.parse("device/+")
KINDS = ("telemetry/imu", "telemetry/imu/backfill", "telemetry/imu/backfill.z", "event/door", "status", "state",
         "health", "loss", "result/dock", "get_state")  # fmt: skip


def message(below: str, payload: bytes, **properties: Any) -> Inbound:  # noqa: ANN401
    given = {"qos": 1, "retain": False, "dup": False, "packet_id": 1, **properties}
    return Inbound(topic=f"device/rover/{below}", payload=payload, **given)


def of(below: str, body: object, **properties: Any) -> Any:  # noqa: ANN401
    return read(message(below, json.dumps(body).encode(), **properties), PREFIX)


def record(seq: int, **fields: object) -> dict[str, object]:
    return {"ts": 5, "epoch": 2, "seq": seq, **fields}


def test_records_come_alone_in_arrays_and_compressed() -> None:
    for below, payload in (
        ("telemetry/imu", json.dumps(record(3, ax=1)).encode()),
        ("telemetry/imu", json.dumps([record(3, ax=1)]).encode()),
        ("telemetry/imu/backfill", json.dumps([record(3, ax=1)]).encode()),
        ("telemetry/imu/backfill.z", zlib.compress(json.dumps([record(3, ax=1)]).encode())),
    ):
        reading = read(message(below, payload), PREFIX)
        assert isinstance(reading, Records)
        assert (reading.device, reading.stream, reading.is_live, reading.unreadable) == ("rover", "imu", False, 0)
        ((entry),) = reading.entries
        assert (entry.epoch, entry.seq, entry.ts) == (2, 3, 5)
        assert json.loads(entry.body) == record(3, ax=1)
    event = of("event/door", record(1, id="rover-door-2-1"))
    assert (event.stream, len(event.entries)) == ("event/door", 1)
    assert of("telemetry/imu", record(3), qos=0).is_live


def test_what_is_no_record_costs_itself_only() -> None:
    bad = [None, 1, [], {}, {"ts": 1, "epoch": 1}, record(0), record(-1), record(2**62), {**record(1), "epoch": "1"},
           {**record(1), "seq": True}, {**record(1), "ts": 1.5}]  # fmt: skip
    reading = of("telemetry/imu", [*bad, record(7)])
    assert [entry.seq for entry in reading.entries] == [7]
    assert reading.unreadable == len(bad)
    with pytest.raises(UnreadableError):
        of("telemetry/imu", bad)


def test_documents_are_read() -> None:
    status = of("status", {"status": "lost", "epoch": 2, "connection": 3})
    assert isinstance(status, Status)
    assert (status.epoch, status.connection, status.condition) == (2, 3, Condition.LOST)
    state = of("state", {"version": 4, "reported": {}, "desired_version": 2})
    assert isinstance(state, State)
    assert (state.version, state.desired_version) == (4, 2)
    body = {"ts": 1, "stream": "event/door", "epoch": 2, "first_seq": 3, "last_seq": 9, "count": 5, "reason": "thinned"}
    loss = of("loss", body)
    assert isinstance(loss, Loss)
    assert (loss.stream, loss.epoch, loss.first, loss.last, loss.count) == ("event/door", 2, 3, 9, 5)
    result = of("result/dock", {"id": None, "status": "failed", "epoch": 1, "ts": 2}, correlation_data=b"\x01")
    assert isinstance(result, Result)
    assert (result.name, result.key, result.status) == ("dock", "01", "failed")
    assert of("result/dock", {"id": "a", "status": "failed"}, correlation_data=b"\x01").key == "a"
    assert of("result/dock", {"status": "failed", "epoch": 1, "ts": 2}).key == "1/2"


def test_a_device_is_answered_below_its_own_prefix_only() -> None:
    request = of("get_state", {"desired_version": 3, "sent": {"imu": [1, 2]}}, correlation_data=b"c")
    assert request == Request(
        device="rover",
        response_topic="device/rover/desired",
        correlation_data=b"c",
        desired_version=3,
        sent=frozenset({"imu"}),
    )
    assert of("get_state", {}, response_topic="device/rover/x/y").response_topic == "device/rover/x/y"
    for topic in ("device/other/desired", "device/rover", "device/rover2/desired", "device/rover/#", "a"):
        with pytest.raises(UnreadableError, match="response topic"):
            of("get_state", {}, response_topic=topic)


def test_a_bomb_is_not_inflated() -> None:
    bomb = zlib.compress(b" " * (MOST_DECOMPRESSED + 1))
    with pytest.raises(UnreadableError, match=f"longer than {MOST_DECOMPRESSED} bytes"):
        read(message("telemetry/imu/backfill.z", bomb), PREFIX)
    most = zlib.compress(json.dumps([record(1)]).encode().ljust(MOST_DECOMPRESSED))
    assert read(message("telemetry/imu/backfill.z", most), PREFIX)
    with pytest.raises(UnreadableError, match="cut off"):
        read(message("telemetry/imu/backfill.z", zlib.compress(b"[]")[:-1]), PREFIX)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("online") | st.just("failed"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(["ts", "epoch", "seq", "status", "connection", "version", "desired_version", "stream", "id",
                        "first_seq", "last_seq", "count", "reason", "sent"])  # fmt: skip
bodies = st.dictionaries(keys, values | st.integers(0, 9), max_size=10)


@given(st.sampled_from(KINDS), st.binary() | (values | bodies | st.lists(bodies)).map(lambda b: json.dumps(b).encode()))
@example("telemetry/imu", b"[" * 100_000)
@example("telemetry/imu", b'{"ts":1,"epoch":1,"seq":1,"x":1e999}')
@example("telemetry/imu", b'{"ts":1,"epoch":1,"seq":' + b"9" * 5_000 + b"}")
@example("telemetry/imu", b'{"ts":1,"epoch":1,"seq":1,"x":"\\ud800"}')
@example("result/dock", b'{"status":{}}')
@example("result/dock", b'{"status":"failed","id":"\\ud800"}')
@example("status", b'{"status":[]}')
@example("status", b"")
def test_whatever_comes_is_read_or_unreadable(below: str, payload: bytes) -> None:
    if below.endswith(".z"):
        payload = zlib.compress(payload)
    try:
        reading = read(message(below, payload), PREFIX)
    except UnreadableError:
        return
    for body in [entry.body for entry in reading.entries] if isinstance(reading, Records) else []:
        body.encode()
        json.loads(body, parse_constant=pytest.fail)


@pytest.mark.parametrize(
    "topic",
    [
        "device/rover/telemetry",
        "device/rover/telemetry/a b",
        "device/rover/telemetry/a/x",
        "device/rover/cmd/dock",
        "device/rover/event",
        "device/rover",
        "other",
        "",
    ],
)
def test_a_topic_that_is_not_known_is_unreadable(topic: str) -> None:
    odd = Inbound(topic=topic, payload=b"{}", qos=1, retain=False, dup=False, packet_id=1)
    with pytest.raises(UnreadableError):
        read(odd, PREFIX)

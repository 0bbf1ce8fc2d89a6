import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import encode
from agent.model import Record, Stream

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
NAMES = st.text(min_size=1).filter(lambda name: name not in encode.RESERVED)


def record(tail: bytes, *, seq: int = 42) -> Record:
    return Record(row=1, stream=Stream(name="imu"), epoch=17, seq=seq, ts=1763870000123, taken=0.0, tail=tail)


def test_a_record_is_the_contracts_flat_object_with_the_reserved_keys_first() -> None:
    text = encode.record(record(encode.tail({"cpu_percent": 12.5})))
    assert text == b'{"ts":1763870000123,"epoch":17,"seq":42,"cpu_percent":12.5}'


def test_a_record_without_fields_is_still_an_object() -> None:
    assert encode.record(record(encode.tail({}))) == b'{"ts":1763870000123,"epoch":17,"seq":42}'


def test_an_event_carries_its_id() -> None:
    text = encode.record(record(encode.tail({"door": 2}, event_id="rover-door-17-42")))
    assert json.loads(text)["id"] == "rover-door-17-42"


def test_several_records_are_an_array_in_their_order() -> None:
    records = [record(encode.tail({"n": n}), seq=n) for n in (1, 2, 3)]
    assert [one["seq"] for one in json.loads(encode.array(records))] == [1, 2, 3]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_becomes_null(number: float) -> None:
    assert json.loads(encode.record(record(encode.tail({"a": number, "b": 1.5})))) == {
        "ts": 1763870000123,
        "epoch": 17,
        "seq": 42,
        "a": None,
        "b": 1.5,
    }


@pytest.mark.parametrize("name", sorted(encode.RESERVED))
def test_reserved_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"reserved field names: {name}"):
        encode.tail({name: 1, "other": 2})


def test_half_a_surrogate_pair_does_not_stop_a_record() -> None:
    assert json.loads(encode.record(record(encode.tail({"text": "a\ud800b"}))))["text"] == "a?b"


def test_a_document_of_the_agents_own_is_sent_as_it_is() -> None:
    assert encode.record(record(b'{"stream":"imu"}', seq=0)) == b'{"stream":"imu"}'


@given(st.dictionaries(NAMES, SCALARS))
def test_whatever_the_fields_the_payload_is_json_with_the_same_fields(fields: dict[str, object]) -> None:
    parsed = json.loads(encode.record(record(encode.tail(fields))).decode("utf-8"))
    assert parsed["seq"] == 42
    assert len(parsed) <= len(fields) + 3
    for name, value in fields.items():
        if isinstance(value, int) and not any(0xD800 <= ord(c) <= 0xDFFF for c in name):
            assert parsed[name] == value


def test_a_document_that_is_too_deep_is_cut_off_and_costs_nothing_else() -> None:
    for end in (float("nan"), 1.0):
        deep: object = end
        for _ in range(5_000):
            deep = [deep]
        said = json.loads(encode.document({"id": "a", "result": deep}))
        assert said["id"] == "a"

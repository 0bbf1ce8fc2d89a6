import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.lines import Get, LineError, Put, parse


def test_a_sample_line_names_its_stream_fields_time_and_ref() -> None:
    assert parse(b'{"stream":"imu","fields":{"ax":0.1},"ts":1763870000123,"ref":7}') == Put(
        stream="imu", fields={"ax": 0.1}, ts=1763870000123, ref=7
    )


def test_an_event_line_goes_to_the_events_stream() -> None:
    assert parse(b'{"event":"door_opened","ref":"a"}') == Put(stream="event/door_opened", fields={}, ts=None, ref="a")


def test_status_may_be_asked_for() -> None:
    assert parse(b'{"get":"status","ref":2}') == Get(what="status", ref=2)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 60_000, "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"{}", "one of the keys stream, event, get, commands or result_of"),
        (b'{"stream":"a","event":"b"}', "one of the keys"),
        (b'{"stream":"a","field":{}}', "unknown keys beside stream: field"),
        (b'{"stream":"a/b"}', "stream must be 1 to 64 of"),
        (b'{"stream":"+"}', "stream must be 1 to 64 of"),
        (b'{"stream":""}', "stream must be 1 to 64 of"),
        (b'{"stream":7}', "stream must be 1 to 64 of"),
        (b'{"stream":"' + b"a" * 65 + b'"}', "stream must be 1 to 64 of"),
        (b'{"stream":"a","fields":[]}', "fields must be an object"),
        (b'{"stream":"a","fields":{"x":{"y":1}}}', "field x: records are flat"),
        (b'{"stream":"a","fields":{"seq":1}}', "reserved field names: seq"),
        (b'{"stream":"a","fields":{"":1}}', "a field's name is empty"),
        (b'{"stream":"a","ts":1.5}', "ts must be Unix milliseconds"),
        (b'{"stream":"a","ts":true}', "ts must be Unix milliseconds"),
        (b'{"stream":"a","ts":-1}', "ts must be Unix milliseconds"),
        (b'{"get":"everything"}', "cannot get everything"),
        (b'{"stream":"a","ref":[1]}', "ref must be a number or a string"),
        (b'{"stream":"a","fields":{"x":' + b"9" * 5000 + b"}}", "not JSON"),
    ],
)
def test_a_bad_line_says_what_is_wrong_with_it(line: bytes, why: str) -> None:
    with pytest.raises(LineError, match=why.replace("(", r"\(")):
        parse(line)


def test_an_error_carries_the_lines_ref() -> None:
    with pytest.raises(LineError) as caught:
        parse(b'{"stream":"a/b","ref":9}')
    assert caught.value.ref == 9


@given(
    st.binary(max_size=300)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["stream", "event", "get", "fields", "ts", "ref", "x"]), inner)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_whatever_a_client_sends_is_a_request_or_an_error(line: bytes) -> None:
    with suppress(LineError):
        assert isinstance(parse(line), Put | Get)

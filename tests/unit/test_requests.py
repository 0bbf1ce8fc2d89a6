"""What a command says, and when it is too old."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import requests
from agent.model import Inbound
from agent.requests import Request, RequestError
from agent.shadow import Desired, Reported, leaves, matches


def inbound(payload: bytes = b"{}", *, correlation_data: bytes | None = None, expiry: int | None = None) -> Inbound:
    return Inbound(
        topic="t", payload=payload, qos=1, retain=False, dup=False, packet_id=1,
        correlation_data=correlation_data, expiry=expiry,
    )  # fmt: skip


@given(st.binary() | st.recursive(st.none() | st.booleans() | st.floats() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)).map(lambda value: json.dumps(value).encode()))  # fmt: skip  # noqa: E501
def test_whatever_comes_is_a_request_or_a_request_error(payload: bytes) -> None:
    with suppress(RequestError):
        assert isinstance(requests.parse(payload), Request)


def test_an_empty_body_is_a_command_without_anything() -> None:
    assert requests.parse(b" \n") == Request(args={})


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"id": ""}, "id must be"),
        ({"id": "a\n"}, "id must be"),
        ({"id": "x" * 201}, "id must be"),
        ({"from": 1}, "from must be"),
        ({"ts": -1}, "ts must be"),
        ({"ts": 1e3}, "ts must be"),
        ({"seq": True}, "seq must be"),
        ({"expires_at": 10**20}, "expires_at must be"),
        ({"args": []}, "args must be an object"),
    ],
)
def test_what_is_wrong_is_told(body: object, told: str) -> None:
    with pytest.raises(RequestError, match=told):
        requests.parse(json.dumps(body).encode())


def test_the_id_names_a_command_else_its_correlation_data() -> None:
    with_id = requests.parse(b'{"id":"a"}')
    assert requests.identity(inbound(correlation_data=b"c"), with_id) == "id a"
    assert requests.identity(inbound(correlation_data=b"c"), Request(args={})) == "correlation 63"
    assert requests.identity(inbound(), Request(args={})) is None
    assert requests.told_id_of(b"c-7") == "c-7"
    assert requests.told_id_of(b"\x00\xff") == "00ff"


def test_what_the_sender_says_of_times_counts_only_with_a_clock_that_is_right() -> None:
    request = Request(args={}, ts=1_000, expires_at=9_000)
    ages = {"now_ts": 5_000, "max_age": 2.0}
    assert requests.expiry(inbound(), request, is_synced=True, **ages) == 3_000  # type: ignore[arg-type]
    assert requests.expiry(inbound(), request, is_synced=False, **ages) is None  # type: ignore[arg-type]
    assert requests.expiry(inbound(expiry=4), request, is_synced=False, **ages) == 9_000  # type: ignore[arg-type]
    assert requests.expiry(inbound(), request, now_ts=5_000, max_age=0, is_synced=True) == 9_000


# The state.


def test_the_version_grows_with_each_change_and_with_nothing_else() -> None:
    reported = Reported(version=7)
    assert reported.put("mode", {"name": "docked"})
    assert not reported.put("mode", {"name": "docked"})
    assert reported.put("mode", None)
    assert not reported.put("mode", None)
    assert (reported.version, reported.parts) == (9, {})


def test_a_pattern_stands_for_one_name_at_a_time() -> None:
    assert matches(("streams", "a.b", "interval"), "streams.*.interval")
    assert not matches(("streams", "a", "b", "interval"), "streams.*.interval")
    assert not matches(("streams", "a"), "streams.*.interval")
    assert matches(("log", "level"), "log.level")


def test_a_desired_state_that_is_not_newer_changes_nothing() -> None:
    given: list[object] = []
    desired = Desired(allowed=["a.*"], setters={"a.*": lambda path, value: given.append((path, value))})
    assert desired.apply(2, {"a": {"x": 1, "y": [2]}, "b": 3, "c": {}})
    assert not desired.apply(2, {"a": {"x": 9}})
    assert not desired.apply(1, {"a": {"x": 9}})
    assert given == [(("a", "x"), 1), (("a", "y"), [2])]
    assert desired.told() == {
        "version": 2,
        "applied": {"a.x": 1, "a.y": [2]},
        "refused": {"b": "it cannot be set from afar"},
    }


@given(st.recursive(st.integers(), lambda inner: st.dictionaries(st.text(), inner, max_size=3), max_leaves=30))
def test_no_document_is_too_deep(document: object) -> None:
    if isinstance(document, dict):
        assert all(path for path, _ in leaves(document))

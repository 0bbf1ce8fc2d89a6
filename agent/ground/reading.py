"""What one message says: topics and bodies as the contract's sections 2, 3, 5 and 6 have them. Pure.

Strangers write what is read here. Whatever it is, `read` returns a value or raises UnreadableError.
"""

import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from agent.ground.prefix import Prefix
from agent.model import Inbound
from agent.topics import event_stream

MOST_DECOMPRESSED = 2 * 1024 * 1024
"""Bytes that an array may have once it is decompressed: 32 times what an agent makes."""

_BELOW = 2**62  # so that no sum of numbers leaves SQLite's 64 bits
_MOST_STREAMS = 1_000
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_RESULTS = frozenset({"accepted", "succeeded", "failed", "rejected", "expired", "interrupted"})


class UnreadableError(Exception):
    """A message is not what its topic stands for. It costs that message only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One record: its place in its stream, when it was taken (Unix ms), and all of it as JSON text."""

    epoch: int
    seq: int
    ts: int
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """Records of one stream; `unreadable` of the message's are none. At QoS 0 they are those of a live stream."""

    device: str
    stream: str
    entries: Sequence[Entry]
    is_live: bool
    unreadable: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A range of records that will never arrive; `count` of them."""

    device: str
    stream: str
    epoch: int
    first: int
    last: int
    count: int
    reason: str
    ts: int


class Condition(IntEnum):
    """What a status says, in the order in which a connection can say it."""

    ONLINE = 0
    LOST = 1
    OFFLINE = 2


_CONDITIONS = {condition.name.lower(): condition for condition in Condition}


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A connection status, ordered by (`epoch`, `connection`, `condition`)."""

    device: str
    epoch: int
    connection: int
    condition: Condition
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A reported state document. `desired_version` is the one that the device has applied; 0: none."""

    device: str
    version: int
    desired_version: int
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The agent's figures."""

    device: str
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A command's result. `key` tells it from others of that name: its id, the correlation data, or epoch and time."""

    device: str
    name: str
    key: str
    status: str
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """`get_state`: a device asks for the desired state. `sent` names the streams of which it has sent anything."""

    device: str
    response_topic: str
    correlation_data: bytes | None
    desired_version: int
    sent: frozenset[str]


Reading = Records | Loss | Status | State | Health | Result | Request


def read(message: Inbound, prefix: Prefix) -> Reading:
    """Return what a message says. Raises UnreadableError."""
    found = prefix.split(message.topic)
    if found is None:
        raise UnreadableError("no device publishes there")
    device, below = found
    try:
        match below:
            case ["telemetry" | "event", *rest]:
                return _records(device, below[0], rest, message)
            case ["result", name]:
                return _result(device, _name(name), message)
            case [kind] if kind in _DOCUMENTS:
                return _DOCUMENTS[kind](device, _document(message.payload))
            case ["get_state"]:
                return _request(device, prefix.of(device), message)
    except (ValueError, RecursionError) as exc:  # of json and unicode, and raised below
        raise UnreadableError(str(exc) or type(exc).__name__) from exc
    raise UnreadableError("no such topic is known")


# JSON.


def _parsed(payload: bytes) -> Any:  # noqa: ANN401  whatever it is
    return json.loads(payload.decode(), parse_constant=lambda _name: None)


def _text(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)  # ASCII: lone surrogates stay escaped


def _document(payload: bytes) -> Mapping[str, Any]:
    body = _parsed(payload)
    if not isinstance(body, dict):
        raise UnreadableError("no JSON object")
    return body


def _name(text: object) -> str:
    if not isinstance(text, str) or not _NAME.fullmatch(text):
        raise UnreadableError(f"{text!r:.80} is no name")
    return text


def _whole(body: Mapping[str, Any], key: str, *, least: int = 0) -> int:
    value = body.get(key)
    if type(value) is not int or not least <= value < _BELOW:
        raise UnreadableError(f"{key} is {value!r:.40}, not a whole number from {least}")
    return value


def _decompressed(payload: bytes) -> bytes:
    """Return what was compressed. Raises UnreadableError, too, where it is more than anybody could mean."""
    inflate = zlib.decompressobj()
    try:
        plain = inflate.decompress(payload, MOST_DECOMPRESSED)
    except zlib.error as exc:
        raise UnreadableError(f"not zlib: {exc}") from exc
    if not inflate.eof:
        most = f"longer than {MOST_DECOMPRESSED} bytes when decompressed"
        raise UnreadableError(most if len(plain) >= MOST_DECOMPRESSED else "zlib data that are cut off")
    return plain


# The kinds.


def _records(device: str, kind: str, rest: Sequence[str], message: Inbound) -> Records:
    payload = message.payload
    match kind, *rest:
        case "telemetry", name:
            stream = _name(name)
        case "telemetry", name, "backfill":
            stream = _name(name)
        case "telemetry", name, "backfill.z":
            stream = _name(name)
            payload = _decompressed(payload)
        case "event", name:
            stream = event_stream(_name(name))
        case _:
            raise UnreadableError("no such topic is known")
    body = _parsed(payload)
    some = body if isinstance(body, list) else [body]
    entries = list(_entries(some))
    if not entries and some:
        raise UnreadableError("no record with ts, epoch and seq")
    return Records(
        device=device,
        stream=stream,
        entries=entries,
        is_live=message.qos == 0,
        unreadable=len(some) - len(entries),
    )


def _entries(some: Iterable[Any]) -> Iterable[Entry]:
    for one in some:
        if type(one) is not dict:
            continue
        epoch, seq, ts = one.get("epoch"), one.get("seq"), one.get("ts")
        if type(epoch) is not int or type(seq) is not int or type(ts) is not int:
            continue
        if 0 <= epoch < _BELOW and 1 <= seq < _BELOW and -_BELOW < ts < _BELOW:
            try:
                yield Entry(epoch=epoch, seq=seq, ts=ts, body=_text(one))
            except (ValueError, RecursionError):
                continue


def _loss(device: str, body: Mapping[str, Any]) -> Loss:
    stream = body.get("stream")
    if isinstance(stream, str) and stream.startswith("event/"):
        stream = event_stream(_name(stream.removeprefix("event/")))
    else:
        stream = _name(stream)
    first, last = _whole(body, "first_seq", least=1), _whole(body, "last_seq", least=1)
    if last < first:
        raise UnreadableError(f"the range ends at {last} before it begins at {first}")
    return Loss(
        device=device,
        stream=stream,
        epoch=_whole(body, "epoch"),
        first=first,
        last=last,
        count=_whole(body, "count"),
        reason=_name(body.get("reason")),
        ts=_whole(body, "ts"),
    )


def _status(device: str, body: Mapping[str, Any]) -> Status:
    said = body.get("status")
    if not isinstance(said, str) or said not in _CONDITIONS:
        raise UnreadableError(f"{said!r:.40} is no status")
    return Status(
        device=device,
        epoch=_whole(body, "epoch"),
        connection=_whole(body, "connection"),
        condition=_CONDITIONS[said],
        body=_text(body),
    )


def _state(device: str, body: Mapping[str, Any]) -> State:
    applied = _whole(body, "desired_version") if body.get("desired_version") is not None else 0
    return State(device=device, version=_whole(body, "version"), desired_version=applied, body=_text(body))


def _health(device: str, body: Mapping[str, Any]) -> Health:
    return Health(device=device, body=_text(body))


def _result(device: str, name: str, message: Inbound) -> Result:
    body = _document(message.payload)
    status = body.get("status")
    if not isinstance(status, str) or status not in _RESULTS:
        raise UnreadableError(f"{status!r:.40} is no status of a command")
    key = body.get("id")
    if not isinstance(key, str) and message.correlation_data is not None:
        key = message.correlation_data.hex()
    if not isinstance(key, str):
        key = f"{body.get('epoch')}/{body.get('ts')}"
    key = key.encode(errors="backslashreplace").decode()
    return Result(device=device, name=name, key=key[:256], status=status, body=_text(body))


def _request(device: str, prefix: str, message: Inbound) -> Request:
    body = _document(message.payload) if message.payload else {}
    topic = message.response_topic or f"{prefix}/desired"
    if not topic.startswith(f"{prefix}/") or not set("+#\0").isdisjoint(topic):
        # Else a device that may write below its own prefix only could have us write to others.
        raise UnreadableError(f"the response topic {topic!r:.80} is not below {prefix}")
    sent = body.get("sent")
    return Request(
        device=device,
        response_topic=topic,
        correlation_data=message.correlation_data,
        desired_version=_whole(body, "desired_version") if body.get("desired_version") is not None else 0,
        sent=frozenset(list(sent)[:_MOST_STREAMS]) if isinstance(sent, dict) else frozenset(),
    )


_DOCUMENTS: Mapping[str, Callable[[str, Mapping[str, Any]], Reading]] = {
    "status": _status,
    "state": _state,
    "health": _health,
    "loss": _loss,
}

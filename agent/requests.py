"""Commands as they come (contract, section 5): what a message says, and what is wrong with it. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.model import Inbound

_KEYS = frozenset({"id", "args", "ts", "expires_at", "seq", "from", "response_topic", "correlation_data"})
_LATEST_TS = 253_402_300_800_000  # the year 10000
_LONGEST = 200
_MOST_SEQ = 2**63 - 1


class RequestError(Exception):
    """A command that cannot be understood; its text is for the sender."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A command: what its body says. Times are Unix ms; `sender` is the key `from`.

    `response_topic` and `correlation_data` are for MQTT 3.1.1, whose packets have no place for them.
    """

    id: str | None = None
    args: Mapping[str, Any]
    ts: int | None = None
    expires_at: int | None = None
    seq: int | None = None
    sender: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None


def parse(payload: bytes) -> Request:
    """Return what a command's body says; an empty one is an object without keys. Raises RequestError."""
    try:
        said = json.loads(payload) if payload.strip() else {}
    except (ValueError, RecursionError) as exc:
        raise RequestError(f"not JSON: {exc}") from exc
    if not isinstance(said, dict):
        raise RequestError("not a JSON object")
    if unknown := said.keys() - _KEYS:
        raise RequestError(f"unknown keys: {', '.join(sorted(unknown))[:_LONGEST]}")
    args = said.get("args", {})
    if not isinstance(args, dict):
        raise RequestError("args must be an object")
    return Request(
        id=_text(said, "id"),
        args=args,
        ts=_whole(said, "ts", below=_LATEST_TS),
        expires_at=_whole(said, "expires_at", below=_LATEST_TS),
        seq=_whole(said, "seq", below=_MOST_SEQ),
        sender=_text(said, "from"),
        response_topic=_text(said, "response_topic"),
        correlation_data=(_text(said, "correlation_data") or "").encode() or None,
    )


def identity(inbound: Inbound, request: Request | None) -> str | None:
    """Return what names the command for ever: its `id`, else its correlation data; None: it has no such name."""
    if request is not None and request.id is not None:
        return f"id {request.id}"
    return f"correlation {inbound.correlation_data.hex()}" if inbound.correlation_data else None


def told_id(inbound: Inbound, request: Request | None) -> str | None:
    """Return how the command is called in its results: as it calls itself, or by its correlation data."""
    if request is not None and request.id is not None:
        return request.id
    return told_id_of(inbound.correlation_data) if inbound.correlation_data else None


def told_id_of(correlation_data: bytes) -> str:
    """Return correlation data as text: as it is where that is printable ASCII, else in hexadecimal digits."""
    try:
        text = correlation_data.decode("ascii")
    except UnicodeDecodeError:
        return correlation_data.hex()
    return text if text.isprintable() else correlation_data.hex()


def expiry(inbound: Inbound, request: Request, *, now_ts: int, max_age: float, is_synced: bool) -> int | None:
    """Return when the command is too old to be run, Unix ms; None: never.

    The message's expiry counts from its arrival, whatever the clock says. What the sender says of times counts only if
    this machine's clock `is_synced`. `max_age` is in seconds, 0 for no limit.
    """
    times = [] if inbound.expiry is None else [now_ts + inbound.expiry * 1000]
    if is_synced:
        if request.expires_at is not None:
            times.append(request.expires_at)
        if request.ts is not None and max_age:
            times.append(request.ts + int(max_age * 1000))
    return min(times, default=None)


def _text(said: Mapping[str, Any], key: str) -> str | None:
    value = said.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST or not value.isprintable():
        raise RequestError(f"{key} must be 1 to {_LONGEST} printable characters")
    return value


def _whole(said: Mapping[str, Any], key: str, *, below: int) -> int | None:
    value = said.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < below:
        raise RequestError(f"{key} must be a whole number of 0 or more")
    return value

"""What a line on the local socket says (contract, section 8). Pure: bytes in, a request or an error out."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent import topics
from agent.encode import RESERVED
from agent.model import Fields, Outcome, Status

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LATEST_TS = 253_402_300_800_000  # the year 10000
_KEYS = {
    "stream": frozenset({"stream", "fields", "ts", "ref"}),
    "event": frozenset({"event", "fields", "ts", "ref"}),
    "get": frozenset({"get", "ref"}),
    "commands": frozenset({"commands", "ref"}),
    "result_of": frozenset({"result_of", "status", "result", "reason", "ref"}),
}
_ENDS = frozenset({Status.SUCCEEDED, Status.FAILED, Status.REJECTED})

Ref = int | float | str | None
"""What a client calls its line by; its answer carries the same."""


class LineError(Exception):
    """A line that cannot be taken; its text is for the client. `ref` is the line's, as far as it could be read."""

    def __init__(self, message: str, *, ref: Ref = None) -> None:
        super().__init__(message)
        self.ref = ref


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """A sample, or an event: then `stream` is `event/NAME`. `ts` is in Unix ms, None for now."""

    stream: str
    fields: Fields
    ts: int | None
    ref: Ref


@dataclass(frozen=True, slots=True, kw_only=True)
class Get:
    """A question."""

    what: str
    ref: Ref


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Commands that the client performs from now on."""

    commands: tuple[str, ...]
    ref: Ref


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a command ended that the client was given; `of` is its id."""

    of: str
    outcome: Outcome
    ref: Ref


Request = Put | Get | Offer | Result


def parse(line: bytes) -> Request:
    """Return what the line says. Raises LineError."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise LineError(f"not JSON: {exc}") from exc
    if not isinstance(said, dict):
        raise LineError("not a JSON object")
    ref = said.get("ref")
    if not isinstance(ref, int | float | str | None) or (isinstance(ref, float) and not math.isfinite(ref)):
        raise LineError("ref must be a number or a string")
    try:
        return _request(said, ref)
    except LineError as exc:
        exc.ref = ref
        raise


def _request(said: Mapping[str, Any], ref: Ref) -> Request:
    kinds = [kind for kind in _KEYS if kind in said]
    if len(kinds) != 1:
        raise LineError("a line has one of the keys stream, event, get, commands or result_of")
    kind = kinds[0]
    if not said.keys() <= _KEYS[kind]:
        unknown = ", ".join(sorted(said.keys() - _KEYS[kind]))
        raise LineError(f"unknown keys beside {kind}: {unknown}")
    if kind == "commands":
        return Offer(commands=_names(said[kind]), ref=ref)
    if kind == "result_of":
        return _result(said, ref)
    name = said[kind]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise LineError(f"{kind} must be 1 to 64 of A-Z a-z 0-9 . _ -, not {name!r:.80}")
    if kind == "get":
        if name != "status":
            raise LineError(f"cannot get {name}; there is: status")
        return Get(what=name, ref=ref)
    stream = name if kind == "stream" else topics.event_stream(name)
    return Put(stream=stream, fields=_fields(said.get("fields", {})), ts=_ts(said.get("ts")), ref=ref)


def _names(names: object) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) and _NAME.fullmatch(name) for name in names):
        raise LineError("commands must be a list of names, each 1 to 64 of A-Z a-z 0-9 . _ -")
    return tuple(names)


def _result(said: Mapping[str, Any], ref: Ref) -> Result:
    of, status, result, reason = said["result_of"], said.get("status"), said.get("result", {}), said.get("reason", "")
    if not isinstance(of, str):
        raise LineError("result_of must be the id of a command")
    if status not in _ENDS:
        raise LineError(f"status must be one of {', '.join(sorted(_ENDS))}")
    if not isinstance(result, dict) or not isinstance(reason, str):
        raise LineError("result must be an object, and reason a text")
    return Result(of=of, outcome=Outcome(status=Status(status), result=result, reason=reason), ref=ref)


def _fields(fields: object) -> Fields:
    if not isinstance(fields, dict):
        raise LineError("fields must be an object")
    if not RESERVED.isdisjoint(fields):
        raise LineError(f"reserved field names: {', '.join(sorted(RESERVED.intersection(fields)))}")
    for name, value in fields.items():
        if not name:
            raise LineError("a field's name is empty")
        if isinstance(value, dict | list):
            raise LineError(f"field {name:.80}: records are flat, so a value is a number, a string, a boolean or null")
    return fields


def _ts(ts: object) -> int | None:
    if ts is None:
        return None
    if isinstance(ts, bool) or not isinstance(ts, int) or not 0 <= ts < _LATEST_TS:
        raise LineError(f"ts must be Unix milliseconds as a whole number, not {ts!r:.80}")
    return ts

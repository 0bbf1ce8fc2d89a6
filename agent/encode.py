"""Payloads: UTF-8 JSON, as the contract's section 3 has them."""

import json
import math
from collections.abc import Iterable, Mapping

from agent.model import Fields, Record, Value

RESERVED = frozenset({"ts", "epoch", "seq", "clock", "id"})
"""Keys of a record that fields cannot have."""

_DEEPEST = 64

_plain = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=False)
_chunks = getattr(json.encoder, "c_make_encoder", None)
if _chunks is not None:  # what JSONEncoder.encode makes anew for each call
    _chunks = _chunks(None, _plain.default, json.encoder.encode_basestring, None, ":", ",", False, False, False)  # noqa: FBT003


def _strict(values: Mapping[str, object]) -> str:
    return "".join(_chunks(values, 0)) if _chunks is not None else _plain.encode(values)


def tail(fields: Fields, *, event_id: str | None = None) -> bytes:
    """Return what follows the reserved numbers in a record's JSON text: `,"ax":0.1}`, or `}` without fields.

    NaN and infinity become null. Raises ValueError where a field has a reserved name.
    """
    if not RESERVED.isdisjoint(fields):
        taken = ", ".join(sorted(RESERVED.intersection(fields)))
        raise ValueError(f"reserved field names: {taken}")
    if event_id is not None:
        fields = {"id": event_id, **fields}
    if not fields:
        return b"}"
    try:
        text = _strict(fields)
    except ValueError:
        text = _strict({key: _finite(value) for key, value in fields.items()})
    return b"," + text[1:].encode("utf-8", "replace")


def _finite(value: Value) -> Value:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def record(one: Record) -> bytes:
    """Return one record as a JSON object; a document of the agent's own (`seq` 0) is its tail."""
    if one.seq == 0:
        return one.tail
    return b'{"ts":%d,"epoch":%d,"seq":%d%b' % (one.ts, one.epoch, one.seq, one.tail)


def array(records: Iterable[Record]) -> bytes:
    """Return several records as a JSON array of objects."""
    return b"[" + b",".join(map(record, records)) + b"]"


def letter(body: bytes, *, topic: str, correlation_data: bytes | None) -> bytes:
    """Return a document, JSON text, together with where it goes; `opened` takes them apart again."""
    correlation = correlation_data.hex() if correlation_data is not None else None
    return document({"topic": topic, "correlation_data": correlation, "body": body.decode()})


def opened(text: bytes) -> tuple[str, bytes | None, bytes]:
    """Return a letter's topic, correlation data and body."""
    said = json.loads(text)
    correlation = said["correlation_data"]
    return said["topic"], bytes.fromhex(correlation) if correlation is not None else None, said["body"].encode()


def document(values: Mapping[str, object]) -> bytes:
    """Return a document that is not a record (status, health, loss) as a JSON object.

    NaN and infinity become null. So does what is nested deeper than 64, where that, or one of those, is in the way.
    """
    try:
        text = _strict(values)
    except (ValueError, RecursionError):
        text = _strict({key: _all_finite(value, deep=_DEEPEST) for key, value in values.items()})
    return text.encode("utf-8", "replace")


def _all_finite(value: object, *, deep: int) -> object:
    if isinstance(value, Mapping | list | tuple) and not deep:
        return None
    if isinstance(value, Mapping):
        return {key: _all_finite(item, deep=deep - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_all_finite(item, deep=deep - 1) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

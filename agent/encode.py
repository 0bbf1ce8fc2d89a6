"""Payloads: UTF-8 JSON, as the contract's section 3 has them."""

import json
import math
from collections.abc import Iterable, Mapping

from agent.model import Fields, Record, Value

RESERVED = frozenset({"ts", "epoch", "seq", "clock", "id"})
"""Keys of a record that fields cannot have."""

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


def document(values: Mapping[str, object]) -> bytes:
    """Return a document that is not a record (status, health, loss) as a JSON object."""
    return _strict(values).encode("utf-8", "replace")

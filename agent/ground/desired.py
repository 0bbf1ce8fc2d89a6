"""The desired state: what devices are told that they should be like, and what is here of theirs (contract, 6)."""

import json
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

from agent.ground.file import told, transaction
from agent.ground.reading import Request

_MOST_RANGES = 1_000
_MOST_RANGES_OF_A_STREAM = 32

Received = dict[str, list[tuple[int, int, int]]]
"""By stream: [epoch, first seq, last seq], in order."""


def answer(database: sqlite3.Connection, request: Request) -> bytes:
    """Return the reply to a `get_state`. Raises StorageError.

    A desired state that the device has already is left out.
    """
    with told("cannot read the database"):
        found = database.execute(
            "SELECT id, desired, desired_version FROM device WHERE name = ?", (request.device,)
        ).fetchone()
        if found is None:
            return _json({"received": {stream: [] for stream in request.sent}})
        device, desired, version = found
        reply: dict[str, object] = {}
        if desired is not None and version > request.desired_version:
            reply = {"version": version, "desired": json.loads(desired)}
        return _json({**reply, "received": _received(database, device, request.sent)})


def _received(database: sqlite3.Connection, device: int, sent: Iterable[str]) -> Received:
    """Return what is here of a device; of streams with many ranges, the newest ones.

    Streams that are never sent again are left out, unless the device says that it waits for them. Of those that it
    names and nothing is here, it is told so: it may have to send them again.
    """
    streams = database.execute(
        "SELECT id, name FROM stream WHERE device = ? AND records > 0"
        " AND (NOT is_live OR name IN (SELECT value FROM json_each(?))) ORDER BY name LIMIT ?",
        (device, json.dumps(sorted(sent)), _MOST_RANGES),
    ).fetchall()
    most = max(1, min(_MOST_RANGES_OF_A_STREAM, _MOST_RANGES // max(1, len(streams))))
    query = "SELECT epoch, first, last FROM received WHERE stream = ? ORDER BY epoch DESC, first DESC LIMIT ?"
    here = {name: database.execute(query, (stream, most)).fetchall()[::-1] for stream, name in streams}
    return {**{stream: [] for stream in sent}, **here}


def change(database: sqlite3.Connection, device: str, changes: Mapping[str, Any]) -> tuple[int, bytes]:
    """Make a new version of a device's desired state; return the version, and the push. Raises StorageError.

    Tables are merged, and null takes a key away. The version is above all that the device has told of.
    """
    with told("cannot write the database"), transaction(database):
        database.execute("INSERT OR IGNORE INTO device (name) VALUES (?)", (device,))
        desired, highest = database.execute(
            "SELECT desired, max(desired_version, applied_version) FROM device WHERE name = ?", (device,)
        ).fetchone()
        merged = _merged(json.loads(desired or "{}"), changes)
        version = int(highest) + 1
        database.execute(
            "UPDATE device SET desired = ?, desired_version = ? WHERE name = ?", (json.dumps(merged), version, device)
        )
    return version, _json({"version": version, "desired": merged})


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            before = merged.get(key)
            merged[key] = _merged(before if isinstance(before, dict) else {}, value)
        else:
            merged[key] = value
    return merged


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()

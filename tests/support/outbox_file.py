"""The agent's file as SQLite itself shows it, while no agent runs."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

Identity = tuple[str, int, int]


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        yield database


def waiting(path: Path) -> dict[Identity, dict[str, Any]]:
    """The records that wait in the file, by identity; checks that the counts of their streams are true."""
    return _records(path, "outbox")


def quarantined(path: Path) -> dict[Identity, dict[str, Any]]:
    return _records(path, "quarantine")


def accepted(path: Path) -> dict[str, int]:
    """How many records of each stream the file counts as accepted; the agent's own documents are no records."""
    with opened(path) as database:
        return dict(database.execute("SELECT name, accepted FROM stream WHERE name NOT LIKE '/%'").fetchall())


def _records(path: Path, table: str) -> dict[Identity, dict[str, Any]]:
    with opened(path) as database:
        if table == "outbox":
            _check_counts(database)
        rows = database.execute(
            f"SELECT name, epoch, seq, ts, tail FROM {table} JOIN stream ON stream.id = {table}.stream WHERE seq > 0"
        ).fetchall()
    records = {}
    for name, epoch, seq, ts, tail in rows:
        fields = json.loads(b"{" + bytes(tail).lstrip(b","))
        assert (name, epoch, seq) not in records, f"{name} {epoch}/{seq} is there twice"
        records[name, epoch, seq] = {"ts": ts, "epoch": epoch, "seq": seq, **fields}
    return records


def _check_counts(database: sqlite3.Connection) -> None:
    counted = dict(database.execute("SELECT id, waiting FROM stream WHERE waiting > 0").fetchall())
    there = dict(database.execute("SELECT stream, count(*) FROM outbox GROUP BY stream").fetchall())
    assert counted == there

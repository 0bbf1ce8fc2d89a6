"""Looking into an outbox that another process may be writing."""

import sqlite3
from pathlib import Path

import aiosqlite

from agent.errors import StorageError
from agent.store.database import COUNTS_QUERY, counted
from agent.store.transaction import Counts


async def read_counts(path: Path) -> list[Counts]:
    """Return what the file says of each stream, without writing to it. Raises StorageError."""
    try:
        async with aiosqlite.connect(_read_only(path), uri=True) as database:
            return [counted(row) for row in await database.execute_fetchall(COUNTS_QUERY)]
    except sqlite3.Error as exc:
        raise StorageError(f"cannot read {path}: {exc}") from exc


def _read_only(path: Path) -> str:
    return f"{path.absolute().as_uri()}?mode=ro"

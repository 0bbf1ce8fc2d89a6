"""What the broker keeps for a client: its identifier, and the filters that were granted to it."""

import sqlite3
import uuid
from collections.abc import Iterable

from agent.ground.file import told, transaction


def own_client_id(database: sqlite3.Connection) -> str:
    """Return the client identifier of this file: the same for ever. Raises StorageError."""
    with told("cannot write the database"), transaction(database):
        database.execute(
            "INSERT INTO own (client_id) SELECT ? WHERE NOT EXISTS (SELECT 1 FROM own)",
            (f"roamd-ground-{uuid.uuid4().hex[:12]}",),
        )
        (client_id,) = database.execute("SELECT client_id FROM own").fetchone()
    return str(client_id)


def granted(database: sqlite3.Connection, client_id: str, server: str) -> frozenset[str]:
    """Return the filters that the client's session there has. Raises StorageError."""
    with told("cannot read the database"):
        query = "SELECT filter FROM subscription WHERE client_id = ? AND server = ?"
        return frozenset(filter_ for (filter_,) in database.execute(query, (client_id, server)))


def grant(database: sqlite3.Connection, client_id: str, server: str, filters: Iterable[str]) -> None:
    """Note filters that the server has granted. Raises StorageError."""
    with told("cannot write the database"), transaction(database):
        database.executemany(
            "INSERT OR IGNORE INTO subscription (client_id, server, filter) VALUES (?, ?, ?)",
            [(client_id, server, filter_) for filter_ in filters],
        )


def forget(database: sqlite3.Connection, client_id: str, server: str) -> None:
    """Note that the session is gone. Raises StorageError."""
    with told("cannot write the database"), transaction(database):
        database.execute("DELETE FROM subscription WHERE client_id = ? AND server = ?", (client_id, server))

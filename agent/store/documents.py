"""The reported and the desired state as they are on the disk: the table `document`."""

import json
from collections.abc import Mapping
from typing import Any

from agent import encode
from agent.store.book import Book
from agent.store.database import Database

_PUT = (
    "INSERT INTO document (name, version, body) VALUES (?, ?, ?)"
    " ON CONFLICT (name) DO UPDATE SET version = excluded.version, body = excluded.body"
)


async def load(database: Database) -> dict[str, tuple[int, dict[str, Any]]]:
    """Return each document's version and body by its name. Raises StorageError."""
    rows = await database.rows("SELECT name, version, body FROM document")
    return {name: (version, json.loads(body)) for name, version, body in rows}


def put(book: Book, name: str, version: int, body: Mapping[str, object]) -> None:
    """Have a document written."""
    book.write(_PUT, name, version, encode.document(body))

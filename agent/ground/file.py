"""The other side's file: SQLite, shared by several processes, with the standard library's driver.

The outbox's aiosqlite gives each statement to a thread and back. Here one call does a whole batch in a thread of its
own, and the subcommands have no event loop.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from agent.errors import StorageError
from agent.ground.schema import APPLICATION_ID, MIGRATIONS

_BUSY_TIMEOUT = 30.0  # seconds that another process may hold the file's lock


@contextmanager
def told(what: str) -> Iterator[None]:
    """Translate SQLite's errors."""
    try:
        yield
    except sqlite3.Error as exc:
        raise StorageError(f"{what}: {exc}") from exc


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the file, and make it where there is none. Raises StorageError."""
    with told(f"cannot open {path}"):
        # One thread at a time uses it, though not always the one that opened it.
        database = sqlite3.connect(path, timeout=_BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
    with closing(database):
        with told(f"cannot open {path}"):
            _prepare(database, path)
        yield database


@contextmanager
def opened_existing(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a file that there is already. Raises StorageError."""
    if not path.exists():
        raise StorageError(f"there is no {path}; `roamd ground run` makes it, and --db names another one")
    with opened(path) as database:
        yield database


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Do all or nothing. When it ends, it is on the disk (synchronous=FULL)."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:  # SQLite has ended it by itself where the disk is full, say
            database.execute("ROLLBACK")
        raise


def _prepare(database: sqlite3.Connection, path: Path) -> None:
    (tables,) = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if tables and application != APPLICATION_ID:
        raise StorageError(f"{path} is a database of another program; name another file with --db")
    if version > len(MIGRATIONS):
        raise StorageError(f"{path} was written by a newer roamd (schema version {version}); install that one")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    if version == len(MIGRATIONS):
        return
    with transaction(database):
        (version,) = database.execute("PRAGMA user_version").fetchone()  # another process may have done it meanwhile
        for number, migration in enumerate(MIGRATIONS[version:], start=version + 1):
            for statement in migration.strip().split(";\n"):
                database.execute(statement)
            database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            database.execute(f"PRAGMA user_version = {number}")

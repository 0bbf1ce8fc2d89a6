"""The state folder: made where it is missing, and used by one agent at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.errors import StorageError

_LOCK = "roamd.lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock (flock(2)), which the kernel lets go of with the process, however that ends.

    Raises StorageError where the folder cannot be made or written, and where another process has the lock.
    """
    path = folder / _LOCK
    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        file = path.open("a+", encoding="ascii")
    except OSError as exc:
        raise StorageError(
            f"cannot write the state folder {folder}: {exc.strerror}; make it writable for this user,"
            " or set outbox.path to a file elsewhere"
        ) from exc
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            file.seek(0)
            raise StorageError(
                f"the state folder {folder} is in use by another roamd (pid {file.read(20).strip() or 'unknown'});"
                " stop that one, or give this one its own outbox.path"
            ) from exc
        try:
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
        except OSError as exc:
            raise StorageError(f"cannot write {path}: {exc.strerror}") from exc
        yield

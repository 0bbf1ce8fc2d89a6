"""The one flow that writes: inserts, deletes and moves of a tick in one transaction."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from math import inf
from typing import Protocol

from agent import clock
from agent.health import Pulse
from agent.store.database import Database
from agent.store.outbox import Outbox
from agent.store.transaction import Statement


class Book(Protocol):
    """What else is written, at once and in the same transaction. Who has something to write sets `outbox.stir`."""

    @property
    def is_due(self) -> bool: ...  # noqa: D102
    def plan(self) -> list[Statement]: ...  # noqa: D102
    def committed(self) -> None: ...  # noqa: D102


async def commit(
    outbox: Outbox, database: Database, *, until: asyncio.Event, books: Sequence[Book] = (), pulse: Pulse | None = None
) -> None:
    """Move records to the disk when they are due; once `until` and `outbox.stir` are set, the rest, and return.

    It ends by `until`, not by cancelling: a statement on the database's thread goes on after its waiter was cancelled.
    `pulse` beats with each transaction. Raises StorageError.
    """
    pulse = pulse or Pulse("commit", inf)
    while not until.is_set():
        deadline = outbox.next_commit(clock.monotonic())
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await outbox.stir.wait()
        outbox.stir.clear()
        now = clock.monotonic()
        deadline = outbox.next_commit(now)
        if any(book.is_due for book in books) or (deadline is not None and deadline <= now):
            await _write(outbox, database, books, pulse, everything=False)
    await _write(outbox, database, books, pulse, everything=True)


async def _write(outbox: Outbox, database: Database, books: Sequence[Book], pulse: Pulse, *, everything: bool) -> None:
    plan = outbox.plan(clock.monotonic(), everything=everything)
    for book in books:
        plan.changes.statements += book.plan()
    if plan.changes:
        pulse.begin(clock.monotonic())
        await database.write(plan.changes)
        pulse.end()
    outbox.committed(plan)
    for book in books:
        book.committed()

"""The one flow that writes: inserts, deletes and moves of a tick in one transaction."""

import asyncio
from contextlib import suppress

from agent import clock
from agent.store.database import Database
from agent.store.outbox import Outbox


async def commit(outbox: Outbox, database: Database, *, until: asyncio.Event) -> None:
    """Move records to the disk when they are due; once `until` and `outbox.stir` are set, the rest, and return.

    It ends by `until`, not by cancelling: a statement on the database's thread goes on after its waiter was cancelled.
    Raises StorageError.
    """
    while not until.is_set():
        deadline = outbox.next_commit(clock.monotonic())
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await outbox.stir.wait()
        outbox.stir.clear()
        now = clock.monotonic()
        deadline = outbox.next_commit(now)
        if deadline is not None and deadline <= now:
            await _write(outbox, database, everything=False)
    await _write(outbox, database, everything=True)


async def _write(outbox: Outbox, database: Database, *, everything: bool) -> None:
    plan = outbox.plan(clock.monotonic(), everything=everything)
    if plan.changes:
        await database.write(plan.changes)
    outbox.committed(plan)

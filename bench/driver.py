"""python -m bench.driver --config FILE RECORDS: the agent, fed in its own process.

The parts are joined by the daemon's own hand, so that what is measured is what runs. It begins when it has got a line
on standard input, and when that is closed it ends and says how many rows it has written.
"""

import argparse
import asyncio
import os
import sys
from functools import partial
from pathlib import Path

from agent import clock
from agent.daemon import _Agent, _outbox
from agent.model import Delivery, Sample
from agent.settings import load
from agent.settings.models import StreamTable
from agent.store.database import Database
from agent.store.outbox import Outbox
from agent.store.transaction import Changes
from bench.records import DEVICE, FIELDS, STREAM

_TICK = 0.01
_MOST_WAITING = {Delivery.STORED: 1_000, Delivery.SYNCED: 2_000}
"""Records that wait for the broker: enough for the link never to idle, few enough to be acknowledged in time."""
_MOST_WAITERS = 1_000


class _CountedDatabase(Database):
    inserted = 0

    async def write(self, changes: Changes) -> None:
        self.inserted += len(changes.insert)
        await super().write(changes)


class _Feeder:
    """Keeps the outbox supplied. For a `synced` stream, `_MOST_WAITERS` callers at a time await their promise."""

    def __init__(self, outbox: Outbox, stream: StreamTable, records: int) -> None:
        self._outbox = outbox
        self._synced = stream.delivery is Delivery.SYNCED
        self._most_waiting = _MOST_WAITING[stream.delivery] * (2 if stream.batch > 1 else 1)
        self._left = records
        self._waiters = 0

    async def feed(self) -> None:
        while self._left:
            self._top_up()
            await asyncio.sleep(_TICK)

    def _top_up(self) -> None:
        while self._left and self._outbox.waiting < self._most_waiting and self._waiters < _MOST_WAITERS:
            self._left -= 1
            sample = Sample(stream=STREAM, ts=clock.unix_ms(), taken=clock.monotonic(), fields=FIELDS)
            record = self._outbox.accept(sample)
            if self._synced and (promise := self._outbox.promise(record)) is not None:
                self._waiters += 1
                promise.add_done_callback(self._kept)

    def _kept(self, _promise: asyncio.Future[None]) -> None:
        self._waiters -= 1
        self._top_up()


async def _line() -> str:
    """Wait for a line on standard input, without a thread."""
    loop = asyncio.get_running_loop()
    read: asyncio.Future[str] = loop.create_future()
    loop.add_reader(sys.stdin, lambda: read.done() or read.set_result(os.read(0, 100).decode()))
    try:
        return await read
    finally:
        loop.remove_reader(sys.stdin)


async def _main(config: Path, records: int) -> None:
    settings = load(config=config, environ={}, hostname=DEVICE).settings
    async with _CountedDatabase.open(settings.outbox.path) as database:
        assert isinstance(database, _CountedDatabase)
        outbox = await _outbox(settings, database)
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(_Agent(settings, database, outbox, None).run(stop))
            if await _line():
                await _Feeder(outbox, settings.streams[STREAM], records).feed()
                await _line()
            stop.set()
        say = partial(print, flush=True)
        say("rows", database.inserted)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("records", type=int)
    arguments = parser.parse_args()
    asyncio.run(_main(arguments.config, arguments.records))

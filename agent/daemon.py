"""The daemon: the only place that knows every part. The flows, the signals, the order of the end."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing

from agent import __version__, clock, ingest, sources
from agent.collect import Cadence, collect
from agent.control import Control
from agent.errors import StorageError
from agent.groups import only
from agent.health import Health
from agent.link.tls import Tls
from agent.model import Confirm, Record, Sample, Stream
from agent.settings import DefaultsTable, Settings, StreamTable
from agent.store.committer import commit
from agent.store.database import Database
from agent.store.folder import locked
from agent.store.outbox import Outbox
from agent.systemd import Notifier, watchdog_within
from agent.uplink import Uplink, tls_of
from agent.watchdog import watch

log = logging.getLogger(__name__)

_COMMIT_WITHIN = 90.0  # a busy database may be waited for, and an SD card takes its time
_READING_WITHIN = 60.0
_LINK_WITHIN = 20.0


def run(settings: Settings) -> int:
    """Run the agent until SIGTERM or SIGINT, and return the exit code. Raises StorageError and SettingsError."""
    tls = tls_of(settings.broker)
    with only(StorageError), locked(settings.outbox.path.parent):
        asyncio.run(_run(settings, tls))
    return 0


async def _run(settings: Settings, tls: Tls | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is somebody to read again
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Database.open(settings.outbox.path) as database:
        agent = _Agent(settings, database, await _outbox(settings, database), tls)
        loop.add_signal_handler(signal.SIGHUP, agent.read_again)
        await agent.run(stop)


async def _outbox(settings: Settings, database: Database) -> Outbox:
    if settings.outbox.confirm is Confirm.BROKER:
        await database.confirm_all()
    return Outbox(
        database,
        device_id=settings.device_id,
        epoch=await database.begin_epoch(boot_id=clock.boot_id(), started_ts=clock.unix_ms()),
        last_row=await database.last_row(),
        counts=await database.counts(),
        streams=[_stream(name, table) for name, table in settings.streams.items()],
        default=_stream("default", settings.ingest.defaults),
        commit_interval=settings.outbox.commit_interval,
        fresh_for=settings.outbox.fresh_for,
        confirm=settings.outbox.confirm,
    )


def _stream(name: str, table: DefaultsTable) -> Stream:
    return Stream(
        name=name,
        delivery=table.delivery,
        qos=table.qos,
        retain=table.retain,
        priority=table.priority,
        batch=table.batch,
        batch_for=table.batch_for,
        on_change=table.on_change,
        heartbeat=table.heartbeat,
    )


class _Agent:
    """The parts of a running agent, and how they are joined."""

    def __init__(self, settings: Settings, database: Database, outbox: Outbox, tls: Tls | None) -> None:
        self._settings = settings
        self._database = database
        self._outbox = outbox
        self._notifier = Notifier()
        self._health = Health()
        self._cadences = {name: Cadence(table.interval) for name, table in settings.streams.items() if table.source}
        self._control = Control(settings, database, outbox, set_interval=self._set_interval)
        self._uplink = Uplink(
            settings,
            outbox,
            self._control,
            tls,
            tell=self._notifier.status,
            pulse=self._health.pulse("link", within=_LINK_WITHIN),
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set. The end goes: readers, what they accepted, the link, the disk."""
        all_written = asyncio.Event()
        await self._control.load()
        books = [self._control.book]
        async with asyncio.TaskGroup() as flows:
            pulse = self._health.pulse("commit", within=_COMMIT_WITHIN)
            committing = commit(self._outbox, self._database, until=all_written, books=books, pulse=pulse)
            flows.create_task(committing, name="commit")
            watchdog = flows.create_task(self._watch(), name="watchdog")
            link = flows.create_task(self._uplink.keep(), name="link")
            commands = flows.create_task(self._control.perform(), name="commands")
            async with self._listening(), self._collecting():
                self._say_ready()
                await stop.wait()
                log.info("stopping")
                self._notifier.stopping()
            commands.cancel()
            await asyncio.wait([commands])
            await self._uplink.end(link)
            all_written.set()
            self._outbox.stir.set()
            watchdog.cancel()
        log.info("stopped: %d records wait for the next start", self._outbox.waiting)
        self._notifier.close()

    def read_again(self) -> None:
        """Read what can be read again while the agent runs."""
        log.warning("SIGHUP: certificates are read again; settings are read at the start only: restart to apply them")
        self._uplink.read_again()

    async def _watch(self) -> None:
        if (within := watchdog_within()) is not None:
            await watch(self._health, self._notifier, within=within)

    def _say_ready(self) -> None:
        log.info(
            "roamd %s is up: device %s, epoch %d, %d records waiting",
            __version__,
            self._settings.device_id,
            self._outbox.epoch,
            self._outbox.waiting,
        )
        self._notifier.ready()

    # The ways in: what is accepted may be a part of the state as well.

    async def room(self) -> None:
        """Wait until there is room for one more record."""
        await self._outbox.room()

    def accept(self, sample: Sample) -> Record:
        """Take a sample in. Raises ValueError where it cannot be."""
        record = self._outbox.accept(sample)
        self._control.seen(sample)
        return record

    def promise(self, record: Record) -> asyncio.Future[None] | None:
        """Return what is done once the record's promise holds."""
        return self._outbox.promise(record)

    def _set_interval(self, stream: str, interval: float) -> None:
        if stream not in self._cadences:
            raise ValueError("no source is read for it")
        self._cadences[stream].change(interval)

    @asynccontextmanager
    async def _collecting(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            readers = [
                group.create_task(self._collect(name, stream), name=f"collect {name}")
                for name, stream in self._settings.streams.items()
                if stream.source and stream.enabled
            ]
            try:
                yield
            finally:
                for reader in readers:
                    reader.cancel()

    async def _collect(self, name: str, table: StreamTable) -> None:
        pulse = self._health.pulse(f"source {table.source}", within=_READING_WITHIN)
        with closing(sources.make(table.source, table.options)) as source:
            await collect(source, self, stream=name, cadence=self._cadences[name], pulse=pulse)

    def _listening(self) -> AbstractAsyncContextManager[None]:
        return ingest.listening(
            self._settings.ingest.socket,
            self,
            self._control.local,
            figures=self._uplink.figures,
            max_line=self._settings.ingest.max_line,
        )

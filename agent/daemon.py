"""The daemon: the only place that knows every part. The flows, the signals, the order of the end."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from functools import partial

from agent import __version__, clock, ingest, report, sources
from agent.backoff import Backoff
from agent.collect import collect
from agent.deliver import Delivery, Way
from agent.errors import LinkDownError, StorageError
from agent.link.connection import Connection
from agent.link.dial import dial
from agent.link.machine import Waits
from agent.link.opening import Hello, open_session
from agent.link.progress import RoundTrip
from agent.link.servers import Servers
from agent.link.session import Session
from agent.link.states import Dial, Event
from agent.link.tls import Tls
from agent.model import Server, Stream
from agent.settings import BrokerTable, DefaultsTable, Settings
from agent.store.committer import commit
from agent.store.database import Database
from agent.store.folder import locked
from agent.store.outbox import Outbox
from agent.systemd import Notifier
from agent.topics import Topics

log = logging.getLogger(__name__)

_DRAIN_WITHIN = 5.0
_ANSWER_WITHIN = 2.0
_CLOSE_WITHIN = 2.0
_CANCEL_AGAIN_AFTER = 1.0


def run(settings: Settings) -> int:
    """Run the agent until SIGTERM or SIGINT, and return the exit code. Raises StorageError and SettingsError."""
    tls = _tls(settings.broker)
    with _only(StorageError), locked(settings.outbox.path.parent):
        asyncio.run(_run(settings, tls))
    return 0


def _tls(broker: BrokerTable) -> Tls | None:
    """Read the files of TLS, where a broker speaks it. Raises SettingsError."""
    if any(server.is_tls for server in broker.servers):
        return Tls(ca_file=broker.ca_file, cert_file=broker.cert_file, key_file=broker.key_file)
    if broker.ca_file or broker.cert_file:
        log.warning("there are certificates, but nothing is encrypted: broker.urls has mqtt://, not mqtts://")
    return None


async def _run(settings: Settings, tls: Tls | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _read_again, tls)
    async with Database.open(settings.outbox.path) as database:
        await _Agent(settings, database, await _outbox(settings, database), tls).run(stop)


def _read_again(tls: Tls | None) -> None:
    log.warning("SIGHUP: settings are read at the start only; restart to apply them")
    if tls is not None:
        tls.reload()


async def _outbox(settings: Settings, database: Database) -> Outbox:
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


def _waits(broker: BrokerTable) -> Waits:
    backoff = broker.backoff
    grows = partial(Backoff, strategy=backoff.strategy, jitter=backoff.jitter)
    return Waits(
        broker=grows(base=backoff.base, cap=backoff.cap),
        # There is no herd behind the robot's own link.
        own_link=grows(base=backoff.base / 2, cap=min(backoff.cap, backoff.link_cap)),
        stable_after=broker.stable_after,
        hello_timeout=broker.hello_timeout,
        return_after=broker.return_after,
    )


class _Agent:
    """The parts of a running agent, and how they are joined."""

    def __init__(self, settings: Settings, database: Database, outbox: Outbox, tls: Tls | None) -> None:
        broker = settings.broker
        self._settings = settings
        self._tls = tls
        self._database = database
        self._outbox = outbox
        self._topics = Topics(settings.topics.prefix)
        self._notifier = Notifier()
        self._connection = Connection(
            Servers(broker.servers, referrals=broker.referrals),
            _waits(broker),
            open_session=self._open,
            is_reachable=self._is_reachable,
            dead_after=broker.dead_after,
            tell=self._notifier.status,
        )
        self._delivery = Delivery(
            outbox,
            to=self._topics,
            most_in_flight=settings.window,
            way=Way(
                share=settings.outbox.backlog_share,
                rate=settings.outbox.backlog_rate,
                is_compressed=settings.outbox.compress,
            ),
        )
        self._leave = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set. The end goes: readers, what they accepted, the link, the disk."""
        all_written = asyncio.Event()
        async with asyncio.TaskGroup() as flows:
            flows.create_task(commit(self._outbox, self._database, until=all_written), name="commit")
            link = flows.create_task(self._connection.keep(self._serve), name="link")
            async with self._listening(), self._collecting():
                self._say_ready()
                await stop.wait()
                log.info("stopping")
                self._notifier.stopping()
            await self._end(link)
            all_written.set()
            self._outbox.stir.set()
        log.info("stopped: %d records wait for the next start", self._outbox.waiting)
        self._notifier.close()

    def _say_ready(self) -> None:
        log.info(
            "roamd %s is up: device %s, epoch %d, %d records waiting",
            __version__,
            self._settings.device_id,
            self._outbox.epoch,
            self._outbox.waiting,
        )
        self._notifier.ready()

    async def _end(self, link: asyncio.Task[None]) -> None:
        if self._connection.state.is_up:
            with suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_WITHIN):
                    await self._outbox.empty.wait()
        self._leave.set()
        if self._connection.state.is_up:
            await asyncio.wait([link], timeout=2 * _ANSWER_WITHIN + _CLOSE_WITHIN)
        while not link.done():
            link.cancel()
            await asyncio.wait([link], timeout=_CANCEL_AGAIN_AFTER)

    # The ways in.

    @asynccontextmanager
    async def _collecting(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            readers = [
                group.create_task(
                    collect(
                        sources.make(stream.source),
                        self._outbox,
                        stream=name,
                        interval=stream.interval,
                    ),
                    name=f"collect {name}",
                )
                for name, stream in self._settings.streams.items()
                if stream.source and stream.enabled
            ]
            try:
                yield
            finally:
                for reader in readers:
                    reader.cancel()

    def _listening(self) -> AbstractAsyncContextManager[None]:
        return ingest.listening(
            self._settings.ingest.socket,
            self._outbox,
            figures=lambda: report.figures(self._outbox, self._connection),
            max_line=self._settings.ingest.max_line,
        )

    # The way out.

    def _open(
        self, to: Dial, number: int, round_trip: RoundTrip, tell: Callable[[Event], None]
    ) -> AbstractAsyncContextManager[Session]:
        broker = self._settings.broker
        hello = Hello(
            server=to.server,
            tls=self._tls if to.server.is_tls else None,
            client_id=broker.client_id,
            version=broker.protocol,
            username=broker.username or None,
            password=broker.password.get_secret_value() if broker.password else None,
            keep_alive=broker.keep_alive,
            clean_start=broker.clean_start,
            session_expiry=broker.session_expiry,
            will=report.will(self._topics, epoch=self._outbox.epoch, connection=number),
            will_delay=broker.will_delay,
            connect_timeout=broker.connect_timeout,
            hello_timeout=to.hello_timeout,
            dead_after=broker.dead_after,
        )
        return open_session(hello, round_trip=round_trip, tell=tell)

    async def _is_reachable(self, server: Server) -> bool:
        broker = self._settings.broker
        try:
            (await dial(server, timeout=broker.connect_timeout, dead_after=broker.dead_after)).close()
        except LinkDownError:
            return False
        return True

    async def _serve(self, session: Session) -> None:
        """Serve one session until the agent leaves. Raises LinkDownError when the session ends before."""
        self._delivery.adopt(session)
        with _only(LinkDownError):
            async with asyncio.TaskGroup() as flows:
                watch = flows.create_task(session.watch(), name="watch")
                delivery = flows.create_task(self._deliver(session), name="deliver")
                health = flows.create_task(self._report(session), name="report")
                await self._leave.wait()
                for flow in (delivery, health, watch):
                    flow.cancel()
                with suppress(LinkDownError):
                    await self._say_goodbye(session)

    async def _deliver(self, session: Session) -> None:
        """Say that the agent is there, and deliver; records wait for the answer only where there is no room beside."""
        online = report.online(self._topics, epoch=self._outbox.epoch, connection=self._connection.number)
        answer = session.submit(online)
        if not session.has_room:
            await answer
        await self._delivery.over(session)

    async def _report(self, session: Session) -> None:
        interval = self._settings.health.interval
        if interval:
            await report.report(
                self._outbox,
                self._connection,
                to=self._topics,
                interval=interval,
                publish=session.tell,
            )

    async def _say_goodbye(self, session: Session) -> None:
        told = False
        with suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_WITHIN):
                await session.answered.wait()
        if session.has_room:
            with suppress(TimeoutError):
                async with asyncio.timeout(_ANSWER_WITHIN):
                    message = report.offline(
                        self._topics,
                        epoch=self._outbox.epoch,
                        connection=self._connection.number,
                        reason="stopped",
                    )
                    await session.publish(message)
                    told = True
        await session.finish(within=_CLOSE_WITHIN, publish_will=not told)


@contextmanager
def _only(kind: type[Exception]) -> Iterator[None]:
    """Raise the first error of this kind out of a group that holds nothing worse; other groups stay as they are."""
    try:
        yield
    except BaseExceptionGroup as group:
        matching, rest = group.split(kind)
        if matching is None or (rest is not None and rest.split(LinkDownError)[1] is not None):
            raise
        raise _first(matching) from group


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first

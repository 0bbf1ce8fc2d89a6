"""The way out: a link that is kept, what goes over it, and how it is left."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial

from agent import reasons, report
from agent.backoff import Backoff
from agent.control import Control
from agent.deliver import Delivery, Way
from agent.errors import ConnectRefusedError, LinkDownError
from agent.groups import only
from agent.health import Pulse
from agent.link.connection import Connection
from agent.link.dial import dial
from agent.link.machine import Waits
from agent.link.opening import Hello, open_session
from agent.link.progress import RoundTrip
from agent.link.servers import Servers
from agent.link.session import Session
from agent.link.states import Dial, Event
from agent.link.tls import Tls
from agent.model import Server
from agent.settings import BrokerTable, Settings
from agent.store.outbox import Outbox
from agent.topics import Topics

log = logging.getLogger(__name__)

_DRAIN_WITHIN = 5.0
_ANSWER_WITHIN = 2.0
_CLOSE_WITHIN = 2.0
_CANCEL_AGAIN_AFTER = 1.0


def tls_of(broker: BrokerTable) -> Tls | None:
    """Read the files of TLS, where a broker speaks it. Raises SettingsError."""
    if any(server.is_tls for server in broker.servers):
        return Tls(ca_file=broker.ca_file, cert_file=broker.cert_file, key_file=broker.key_file)
    if broker.ca_file or broker.cert_file:
        log.warning("there are certificates, but nothing is encrypted: broker.urls has mqtt://, not mqtts://")
    return None


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


class Uplink:
    """Connection and delivery, and what the agent says of itself. `tell` gets a line for the service manager."""

    def __init__(
        self,
        settings: Settings,
        outbox: Outbox,
        control: Control,
        tls: Tls | None,
        *,
        tell: Callable[[str], None],
        pulse: Pulse,
    ) -> None:
        broker = settings.broker
        self.connection = Connection(
            Servers(broker.servers, referrals=broker.referrals),
            _waits(broker),
            open_session=self._open,
            is_reachable=self._is_reachable,
            dead_after=broker.dead_after,
            tell=tell,
            pulse=pulse,
        )
        self._settings = settings
        self._tls = tls
        self._outbox = outbox
        self._control = control
        self._topics = Topics(settings.topics.prefix)
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
        self._will_qos, self._will_retained = 1, True

    async def keep(self) -> None:
        """Keep the link until `end` is called. Raises StorageError."""
        await self.connection.keep(self._serve)

    def figures(self) -> dict[str, object]:
        """Return the agent's figures."""
        return report.figures(self._outbox, self.connection, resync=self._control.resync)

    def read_again(self) -> None:
        """Read the certificates again, and try at once where the last attempt was refused."""
        if self._tls is not None:
            self._tls.reload()
        self.connection.reloaded()

    async def end(self, keeping: asyncio.Task[None]) -> None:
        """Deliver what there is, take leave, and wait for the task that keeps the link; each for a while only."""
        if self.connection.state.is_up:
            with suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_WITHIN):
                    await self._outbox.empty.wait()
        self._leave.set()
        if self.connection.state.is_up:
            await asyncio.wait([keeping], timeout=2 * _ANSWER_WITHIN + _CLOSE_WITHIN)
        while not keeping.done():
            keeping.cancel()
            await asyncio.wait([keeping], timeout=_CANCEL_AGAIN_AFTER)

    @asynccontextmanager
    async def _open(
        self, to: Dial, number: int, round_trip: RoundTrip, tell: Callable[[Event], None]
    ) -> AsyncIterator[Session]:
        try:
            async with open_session(self._hello(to, number), round_trip=round_trip, tell=tell) as session:
                yield session
        except ConnectRefusedError as exc:
            # What a broker cannot do with records it tells in CONNACK; what it cannot do with the will it refuses.
            self._will_retained &= exc.reason_code != reasons.RETAIN_NOT_SUPPORTED
            if exc.reason_code == reasons.QOS_NOT_SUPPORTED:
                self._will_qos = 0
            raise

    def _hello(self, to: Dial, number: int) -> Hello:
        broker = self._settings.broker
        will = report.will(self._topics, epoch=self._outbox.epoch, connection=number)
        return Hello(
            server=to.server,
            tls=self._tls if to.server.is_tls else None,
            client_id=broker.client_id,
            version=broker.protocol,
            username=broker.username or None,
            password=broker.password.get_secret_value() if broker.password else None,
            keep_alive=broker.keep_alive,
            clean_start=broker.clean_start,
            session_expiry=broker.session_expiry,
            will=replace(will, qos=self._will_qos, retain=self._will_retained),
            will_delay=broker.will_delay,
            connect_timeout=broker.connect_timeout,
            hello_timeout=to.hello_timeout,
            dead_after=broker.dead_after,
        )

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
        with only(LinkDownError):
            async with asyncio.TaskGroup() as flows:
                watch = flows.create_task(session.watch(), name="watch")
                delivery = flows.create_task(self._deliver(session), name="deliver")
                health = flows.create_task(self._report(session), name="report")
                control = flows.create_task(self._control.over(session, self.connection.number), name="control")
                await self._leave.wait()
                for flow in (delivery, health, control, watch):
                    flow.cancel()
                with suppress(LinkDownError):
                    await self._say_goodbye(session)

    async def _deliver(self, session: Session) -> None:
        """Say that the agent is there, and deliver."""
        online = report.online(self._topics, epoch=self._outbox.epoch, connection=self.connection.number)
        session.submit(online)
        await self._delivery.over(session)

    async def _report(self, session: Session) -> None:
        interval = self._settings.health.interval
        if interval:
            await report.report(self.figures, to=self._topics, interval=interval, publish=session.tell)

    async def _say_goodbye(self, session: Session) -> None:
        told = False
        with suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_WITHIN):
                await session.answered.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_WITHIN):
                message = report.offline(
                    self._topics,
                    epoch=self._outbox.epoch,
                    connection=self.connection.number,
                    reason="stopped",
                )
                await session.publish(message)
                told = True
        await session.finish(within=_CLOSE_WITHIN, publish_will=not told)

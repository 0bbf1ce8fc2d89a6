"""The way in: messages are stored, then acknowledged; devices that ask are answered. `roamd ground run`."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from functools import partial
from typing import ParamSpec, TypeVar

from agent import clock, reasons
from agent.backoff import Backoff
from agent.errors import LinkDownError
from agent.ground import desired, sessions
from agent.ground.ledger import Ledger
from agent.ground.prefix import Prefix
from agent.ground.reading import Reading, Request, UnreadableError, read
from agent.groups import only
from agent.link.connection import Connection
from agent.link.dial import dial
from agent.link.machine import Waits
from agent.link.opening import Hello, open_session
from agent.link.progress import RoundTrip
from agent.link.servers import Servers
from agent.link.session import Session
from agent.link.states import Dial, Event
from agent.model import Inbound, Message, Released, Server

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_MOST_MESSAGES = 500
_MOST_BYTES = 4 * 1024 * 1024
_ASK_AGAIN_AFTER = 60.0
_ANSWER_WITHIN = 2.0
_CLOSE_WITHIN = 2.0
_CANCEL_AGAIN_AFTER = 1.0
_MOST_WAITING = 10_000


class Ground:
    """Receives what devices below a prefix publish, and keeps it.

    `hello` is how to connect; its `server` is the broker, `tls` is used where that speaks it. With a `share`, others
    of the same name share the work (MQTT 5 section 4.8.2).
    """

    def __init__(
        self, database: sqlite3.Connection, prefix: Prefix, hello: Hello, *, share: str | None, backoff: Backoff
    ) -> None:
        self._database = database
        self._ledger = Ledger(database)
        self._prefix = prefix
        self._hello = hello
        self._filters = tuple(prefix.filters(share))
        self._connection = Connection(
            Servers([hello.server]),
            Waits(
                broker=backoff,
                own_link=replace(backoff, base=backoff.base / 2),
                stable_after=30.0,
                hello_timeout=hello.hello_timeout,
                return_after=0.0,
            ),
            open_session=self._open,
            is_reachable=self._is_reachable,
            dead_after=hello.dead_after,
        )
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ground")
        """One: statements follow each other, also where nobody waits for them any more."""
        self._requests: dict[str, Request] = {}
        """By device: the last one is answered for all."""
        self._asked = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._leave = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Receive until `stop` is set. Raises StorageError."""
        try:
            async with asyncio.TaskGroup() as group:
                keeping = group.create_task(self._connection.keep(self._serve), name="link")
                await stop.wait()
                log.info("stopping")
                self._leave.set()
                if self._connection.state.is_up:
                    await asyncio.wait([keeping], timeout=_ANSWER_WITHIN + 2 * _CLOSE_WITHIN)
                while not keeping.done():
                    keeping.cancel()
                    await asyncio.wait([keeping], timeout=_CANCEL_AGAIN_AFTER)
        finally:
            self._thread.shutdown()

    def _open(
        self, to: Dial, _number: int, round_trip: RoundTrip, tell: Callable[[Event], None]
    ) -> AbstractAsyncContextManager[Session]:
        hello = replace(self._hello, server=to.server, hello_timeout=to.hello_timeout)
        return open_session(hello, round_trip=round_trip, tell=tell)

    async def _is_reachable(self, server: Server) -> bool:
        try:
            hello = self._hello
            (await dial(server, timeout=hello.connect_timeout, dead_after=hello.dead_after)).close()
        except LinkDownError:
            return False
        return True

    async def _serve(self, session: Session) -> None:
        """Serve one session until `run` leaves. Raises LinkDownError when the session ends before."""
        with only(LinkDownError):
            async with asyncio.TaskGroup() as flows:
                watch = flows.create_task(session.watch(), name="watch")
                others = [
                    flows.create_task(self._subscribe(session), name="subscribe"),
                    flows.create_task(self._store(session), name="store"),
                ]
                answering = flows.create_task(self._answer(session), name="answer")
                await self._leave.wait()
                for flow in others:
                    flow.cancel()
                await asyncio.wait(others)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_ANSWER_WITHIN):
                        await self._idle.wait()
                answering.cancel()
                watch.cancel()
                await session.finish(within=_CLOSE_WITHIN)

    def _begin(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Call it in the thread."""
        return asyncio.get_running_loop().run_in_executor(self._thread, partial(function, *args, **kwargs))

    async def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call it in the thread, and wait for what it returns."""
        return await _to_its_end(self._begin(function, *args, **kwargs))

    # What comes.

    async def _subscribe(self, session: Session) -> None:
        """See that the session has all subscriptions (contract, section 6), now and then again what was refused."""
        client_id, server = self._hello.client_id, str(session.server)
        if not session.limits.session_present:
            await self._call(sessions.forget, self._database, client_id, server)
        there = await self._call(sessions.granted, self._database, client_id, server)
        if unwanted := there.difference(self._filters):
            log.warning("the session of %s also has: %s; --client-id begins another one", client_id, _listed(unwanted))
        lacking = [one for one in self._filters if one not in there]
        while lacking:
            codes = await session.subscribe(*lacking)
            answers = dict(zip(lacking, codes, strict=False))
            good = [one for one, code in answers.items() if code < reasons.GRANTED_BELOW]
            await self._call(sessions.grant, self._database, client_id, server, good)
            log.info("subscribed to %s", _listed(good))
            lacking = [one for one in lacking if one not in good]
            if lacking:
                told = "; ".join(f"{one}: {reasons.describe(answers.get(one, 0x80))}" for one in lacking)
                log.error("the broker refuses subscriptions, and is asked again in %g s: %s", _ASK_AGAIN_AFTER, told)
                await asyncio.sleep(_ASK_AGAIN_AFTER)
        log.info("receiving what is below %s", self._prefix)

    async def _store(self, session: Session) -> None:
        """Store what comes and acknowledge it after COMMIT; what comes during one transaction makes the next."""
        while True:
            batch = [await session.inbound.get()]
            size = 0
            while not session.inbound.empty() and len(batch) < _MOST_MESSAGES and size < _MOST_BYTES:
                batch.append(message := session.inbound.get_nowait())
                size += len(message.payload) if isinstance(message, Inbound) else 0
            call = self._begin(self._apply, batch)
            call.add_done_callback(partial(self._stored, session, batch))
            await _to_its_end(call)

    def _apply(self, batch: Sequence[Inbound | Released]) -> list[Request]:
        """Store a batch, and return who asked for an answer."""
        readings: list[Reading] = []
        seen: set[str] = set()
        for message in batch:
            if isinstance(message, Released):
                continue
            try:
                reading = read(message, self._prefix)
            except UnreadableError as exc:
                log.warning("a message on %.200r is left out: %s", message.topic, exc)
                continue
            readings.append(reading)
            if not message.retain:
                seen.add(reading.device)
        if readings:
            self._ledger.apply(readings, seen, now=clock.unix_ms())
        return [reading for reading in readings if isinstance(reading, Request)]

    def _stored(
        self, session: Session, batch: Sequence[Inbound | Released], call: asyncio.Future[list[Request]]
    ) -> None:
        if call.cancelled() or call.exception() is not None:
            return
        for message in batch:
            session.acknowledge(message)
        for request in call.result():
            if len(self._requests) < _MOST_WAITING or request.device in self._requests:
                self._requests[request.device] = request
        if self._requests:
            self._idle.clear()
            self._asked.set()

    # What goes.

    async def _answer(self, session: Session) -> None:
        while True:
            await self._asked.wait()
            while self._requests:
                device, request = next(iter(self._requests.items()))
                await self._reply(session, request)
                if self._requests[device] is request:
                    del self._requests[device]
            self._asked.clear()
            self._idle.set()

    async def _reply(self, session: Session, request: Request) -> None:
        reply = Message(
            topic=request.response_topic,
            payload=await self._call(desired.answer, self._database, request),
            correlation_data=request.correlation_data,
        )
        if not session.takes(reply):
            log.error("%s is not answered: the broker takes no %d bytes", request.device, len(reply.payload))
        elif (code := await session.publish(reply)) >= reasons.GRANTED_BELOW:
            log.error("%s is not answered on %s: %s", request.device, reply.topic, reasons.describe(code))


async def _to_its_end(call: asyncio.Future[T]) -> T:
    """Wait for what runs in the thread. A cancellation waits as well, because nothing can stop it."""
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        await asyncio.wait([call])
        raise


def _listed(filters: Collection[str]) -> str:
    return ", ".join(sorted(filters)) or "nothing"

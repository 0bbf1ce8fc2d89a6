"""Keeping a link: what the state machine says is done here, and what happens is told to it."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from math import inf

from agent import clock
from agent.errors import LinkDownError
from agent.health import Pulse
from agent.link import netwatch, states
from agent.link.machine import Machine, Waits
from agent.link.progress import RoundTrip
from agent.link.servers import Servers
from agent.link.session import Session
from agent.link.states import State
from agent.model import Server

log = logging.getLogger(__name__)

_LOOK_EVERY = 1.0
_LEAVE_WITHIN = 2.0
_CANCEL_AGAIN_AFTER = 1.0

Open = Callable[[states.Dial, int, RoundTrip, Callable[[states.Event], None]], AbstractAsyncContextManager[Session]]
"""Opens the session of an attempt: where and how long, its number, the round-trip time so far, whom to tell."""


class Connection:
    """Opens one session after another.

    `number` counts the attempts of this epoch. `state`, `since` and `cause` are the machine's; `tell` gets one line at
    each change. `is_reachable` tries whether a server takes TCP connections.
    """

    def __init__(
        self,
        servers: Servers,
        waits: Waits,
        *,
        open_session: Open,
        is_reachable: Callable[[Server], Awaitable[bool]],
        dead_after: float,
        tell: Callable[[str], None] = lambda _line: None,
        pulse: Pulse | None = None,
    ) -> None:
        self.number = 0
        self._machine = Machine(servers, waits, uniform=random.uniform, now=clock.monotonic())
        self._open_session = open_session
        self._is_reachable = is_reachable
        self._tell = tell
        self._pulse = pulse or Pulse("link", inf)
        self._round_trip = RoundTrip(dead_after=dead_after)
        self._events: asyncio.Queue[tuple[int | None, states.Event]] = asyncio.Queue()
        """What happened, and in which attempt."""
        self._attempt: asyncio.Task[None] | None = None
        self._knocking: asyncio.Task[None] | None = None
        self._session: Session | None = None
        self._peer: str | None = None
        self._source: str | None = None
        """This side's address of the last connection."""
        self._seen: str | None = None
        """What the path check said last."""
        self._usual: str | None = None
        """What it said when that connection was there."""

    @property
    def state(self) -> State:
        """Where the link stands."""
        return self._machine.state

    @property
    def since(self) -> float:
        """The monotonic time of the last change between up and down."""
        return self._machine.since

    @property
    def cause(self) -> str:
        """Why there is no link; empty where there is one."""
        return self._machine.cause

    def figures(self) -> dict[str, object]:
        """Return what happened to the link so far."""
        round_trip = self._round_trip.smoothed
        return {
            "server": str(self._machine.servers.current),
            "round_trip": None if round_trip is None else round(round_trip, 3),
            **self._machine.history.figures(clock.monotonic()),
        }

    def reloaded(self) -> None:
        """Try again at once if the last attempt was refused: settings or certificates may be others now."""
        self._happened(states.Reloaded())

    async def keep(self, serve: Callable[[Session], Awaitable[None]]) -> None:
        """Connect, `serve` the session until it raises LinkDownError, and again; return when `serve` returns."""
        self._seen = netwatch.source_to(self._peer)
        self._happened(states.Started())
        async with asyncio.TaskGroup() as group:
            with netwatch.watching(self._look):
                while self.state is not State.STOPPED:
                    event = await self._next()
                    for action in self._machine.step(event, clock.monotonic()):
                        await self._do(action, serve, group)
            self._pulse.end()
            if self._knocking is not None:
                self._knocking.cancel()

    # What happens.

    def _happened(self, event: states.Event, attempt: int | None = None) -> None:
        self._events.put_nowait((attempt, event))

    async def _next(self) -> states.Event:
        """Return what happens next: an event, or the deadline. Now and then it looks whether the path is another one.

        What an attempt tells that was given up meanwhile is left out.
        """
        while True:
            deadline, now = self._machine.deadline, clock.monotonic()
            self._pulse.begin(now)  # it looks each second, whatever the state
            if deadline is not None and deadline <= now and self._events.empty():
                return states.Elapsed()
            look_at = now + _LOOK_EVERY
            try:
                async with asyncio.timeout_at(look_at if deadline is None else min(look_at, deadline)):
                    attempt, event = await self._events.get()
                if attempt is None or attempt == self.number:
                    return event
            except TimeoutError:
                if netwatch.source_to(self._peer) != self._seen:
                    self._look()

    def _look(self) -> None:
        self._seen = netwatch.source_to(self._peer)
        # Rules of the routing may send TCP another way than the path check (ip-rule(8)): what counts is a change.
        source = self._source if self._source is not None and self._seen == self._usual else self._seen
        is_clear = self._session is None or self._session.is_drained
        answer_within = self._round_trip.probe_deadline if is_clear else None
        self._happened(states.Looked(source=source, answer_within=answer_within))

    def _dialled(self, event: states.Dialled) -> None:
        if event.source != self._source:
            self._round_trip.forget()
        self._peer, self._source = event.peer, event.source
        self._seen = self._usual = netwatch.source_to(event.peer)

    # What is done.

    async def _do(
        self, action: states.Action, serve: Callable[[Session], Awaitable[None]], group: asyncio.TaskGroup
    ) -> None:
        match action:
            case states.Dial():
                self.number += 1
                attempt = self._try(action, self.number, serve)
                self._attempt = group.create_task(attempt, name=f"connection {self.number}")
            case states.Abort():
                await self._abort()
            case states.Leave():
                if self._session is not None:
                    await self._session.finish(within=_LEAVE_WITHIN)
                await self._abort()
            case states.Probe():
                if self._session is not None:
                    self._session.probe()
            case states.Knock():
                self._knocking = group.create_task(self._knock(action.server), name=f"look for {action.server}")
            case states.Changed():
                self._changed(action)

    async def _try(self, dial: states.Dial, number: int, serve: Callable[[Session], Awaitable[None]]) -> None:
        def tell(event: states.Event) -> None:
            if isinstance(event, states.Dialled):
                self._dialled(event)
            self._happened(event, number)

        try:
            async with self._open_session(dial, number, self._round_trip, tell) as session:
                self._session = session
                tell(states.Greeted())
                await serve(session)
        except LinkDownError as exc:
            if _is_cancelled():  # a TaskGroup raises its error in the place of a cancellation
                raise asyncio.CancelledError from exc
            tell(states.Failed(why=exc))
        else:
            tell(states.Left())
        finally:
            self._session = None

    async def _abort(self) -> None:
        while self._attempt is not None and not self._attempt.done():
            self._attempt.cancel()
            await asyncio.wait([self._attempt], timeout=_CANCEL_AGAIN_AFTER)

    async def _knock(self, server: Server) -> None:
        if await self._is_reachable(server):
            self._happened(states.Reachable())

    def _changed(self, change: states.Changed) -> None:
        before, after = change.before, change.after
        if after is State.UP and not before.is_up:
            server = self._machine.servers.current
            log.info("link up, connection %d to %s, after %.1f s", self.number, server, change.lasted)
        elif change.is_news and after is not State.STOPPED and not after.is_up:
            log.log(_level(change), "link down: %s; next attempt %s", change.why, _when(change.wait))
        else:
            log.debug("link: %s -> %s: %s", before.value, after.value, change.why)
        line = f"{after.value}, connection {self.number}"
        self._tell(f"{after.value}: {self.cause}" if self.cause else line)


def _level(change: states.Changed) -> int:
    return logging.ERROR if change.after is State.PARKED else logging.WARNING


def _when(wait: float) -> str:
    return f"in {wait:.1f} s" if wait else "at once"


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

"""Keeping a link: when to dial, how long to wait, and what became of it."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum

from agent import clock, reasons
from agent.backoff import Backoff
from agent.errors import ConnectRefusedError, LinkDownError
from agent.link.session import Session

log = logging.getLogger(__name__)


class State(Enum):
    """Where the link stands."""

    DIAL = "connecting"
    UP = "up"
    BACKOFF = "waiting to connect"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """How long to wait after a failure: `broker` for a refusing or overloaded broker, `own_link` for the robot's link.

    The count of failures falls back to 0 after a PUBACK, or once a link was up for `stable_after` seconds.
    """

    broker: Backoff
    own_link: Backoff
    stable_after: float


class Connection:
    """Opens one session after another.

    `number` counts the attempts of this epoch, `since` is the monotonic time of the last change between up and down,
    `cause` tells why the link is down; `tell` gets one line at each change.
    """

    def __init__(
        self,
        open_session: Callable[[int], AbstractAsyncContextManager[Session]],
        waits: Waits,
        *,
        tell: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.state = State.DIAL
        self.since = clock.monotonic()
        self.number = 0
        self.cause = ""
        self._open_session = open_session
        self._waits = waits
        self._tell = tell
        self._failures = 0

    async def keep(self, serve: Callable[[Session], Awaitable[None]]) -> None:
        """Connect, `serve` the session until it raises LinkDownError, and again; return when `serve` returns."""
        while True:
            self.number += 1
            self._transition(State.DIAL)
            try:
                async with self._open_session(self.number) as session:
                    self._transition(State.UP)
                    try:
                        await serve(session)
                    finally:
                        self._judge(session)
                    self._transition(State.STOPPED)
                    return
            except LinkDownError as exc:
                if _is_cancelled():  # a TaskGroup raises its error in the place of a cancellation
                    raise asyncio.CancelledError from exc
                wait = self._wait(exc)
                self._transition(State.BACKOFF, exc, wait)
            await asyncio.sleep(wait)

    def _judge(self, session: Session) -> None:
        if session.is_proven or clock.monotonic() - self.since >= self._waits.stable_after:
            self._failures = 0

    def _wait(self, why: LinkDownError) -> float:
        failures, self._failures = self._failures, self._failures + 1
        if isinstance(why, ConnectRefusedError) and reasons.needs_a_person(why.reason_code):
            return random.uniform(0.5, 1.0) * self._waits.broker.cap  # noqa: S311  no secret
        backoff = self._waits.own_link if why.cause.is_own_link else self._waits.broker
        return backoff.wait(failures, uniform=random.uniform)

    def _transition(self, to: State, why: LinkDownError | None = None, wait: float = 0.0) -> None:
        now = clock.monotonic()
        lasted = now - self.since
        if to is State.UP:
            log.info("link up, connection %d, after %.1f s", self.number, lasted)
            self.cause = ""
        elif why is not None:
            level = logging.WARNING if self.state is State.UP or self._failures == 1 else logging.INFO
            log.log(level, "link down: %s; next attempt in %.1f s", why, wait)
            self.cause = str(why)
        # A row of failed attempts is one outage: its beginning counts.
        if to in {State.UP, State.STOPPED} or self.state is State.UP:
            self.since = now
        self.state = to
        self._tell(f"{to.value}: {self.cause}" if self.cause else f"{to.value}, connection {self.number}")


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

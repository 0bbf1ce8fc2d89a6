"""Keeping a link, with sessions that are played: the shell around the state machine."""

import asyncio
import gc
import logging
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import cast

import pytest

from agent.backoff import Backoff, Strategy
from agent.errors import Cause, LinkDownError
from agent.link import netwatch, states
from agent.link.connection import Connection
from agent.link.machine import Waits
from agent.link.progress import RoundTrip
from agent.link.servers import Servers
from agent.link.session import Session
from agent.link.states import State
from agent.model import Server

FIRST, SECOND = Server(host="127.0.0.1", port=1), Server(host="127.0.0.1", port=2)
Serve = Callable[[Session], Awaitable[None]]


@dataclass
class Played:
    """A session that is played: it ends when it is told to."""

    source: str = "127.0.0.1"
    peer: str = "127.0.0.1"
    is_drained: bool = True
    probes: int = 0
    finished: bool = False
    probed: asyncio.Event = field(default_factory=asyncio.Event)

    def probe(self) -> None:
        self.probes += 1
        self.probed.set()

    async def finish(self, *, within: float) -> None:
        assert within > 0
        self.finished = True


class Ends:
    """Opens sessions: an error in `ends` refuses that attempt. Notes what was dialled."""

    def __init__(self, *ends: Exception | None, wait: float = 0.0, servers: tuple[Server, ...] = (FIRST,)) -> None:
        self.ends = list(ends)
        self.dialled: list[Server] = []
        self.sessions: list[Played] = []
        self.reachable = asyncio.Event()
        self.source = "127.0.0.1"
        backoff = Backoff(strategy=Strategy.FIXED, base=wait, cap=wait, jitter=0.0)
        self.told: list[str] = []
        self.connection = Connection(
            Servers(servers),
            Waits(broker=backoff, own_link=backoff, stable_after=60, hello_timeout=10, return_after=0.01),
            open_session=self.open,
            is_reachable=self.is_reachable,
            dead_after=10,
            tell=self.told.append,
        )

    @asynccontextmanager
    async def open(
        self, dial: states.Dial, number: int, round_trip: RoundTrip, tell: Callable[[states.Event], None]
    ) -> AsyncIterator[Session]:
        assert number == len(self.dialled) + 1
        self.dialled.append(dial.server)
        end = self.ends.pop(0) if self.ends else None
        if end is not None:
            raise end
        session = Played(source=self.source)
        self.sessions.append(session)
        self.tell = tell
        tell(states.Dialled(source=session.source, peer=session.peer))
        round_trip.answered(0.001)
        yield cast("Session", session)

    async def is_reachable(self, _server: Server) -> bool:
        self.reachable.set()
        return True

    def keep(self, serve: Serve) -> Awaitable[None]:
        return asyncio.get_running_loop().create_task(self.connection.keep(serve))


def down(cause: Cause = Cause.LOST) -> LinkDownError:
    return LinkDownError("gone", cause=cause)


async def for_ever(_session: Session) -> None:
    await asyncio.Event().wait()


async def test_it_dials_until_a_session_is_served_to_its_end() -> None:
    ends = Ends(down(), down(Cause.REFUSED))

    async def serve(_session: Session) -> None:
        await until(lambda: ends.connection.state is State.UP)

    await ends.connection.keep(serve)
    assert ends.connection.number == 3
    assert ends.connection.state is State.STOPPED
    assert ends.told[-2:] == ["up, connection 3", "stopped, connection 3"]


async def test_a_session_that_ends_is_followed_by_another() -> None:
    ends = Ends()

    async def serve(_session: Session) -> None:
        if len(ends.dialled) < 4:
            raise down()

    await ends.connection.keep(serve)
    assert ends.connection.number == 4
    assert ends.connection.figures()["connects"] == 4


async def test_a_cancel_that_comes_with_the_end_of_the_link_is_not_swallowed() -> None:
    ends, ended = Ends(), asyncio.Event()

    async def serve(_session: Session) -> None:
        ended.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            # What a TaskGroup does on Python 3.11 when a flow fails in the same turn of the event loop.
            raise down() from None

    async with asyncio.timeout(30):
        task = asyncio.get_running_loop().create_task(ends.connection.keep(serve))
        await ended.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert task.cancelled()
    assert ends.connection.number == 1


async def test_a_bug_in_what_serves_is_not_taken_for_the_end_of_the_link() -> None:
    async def serve(_session: Session) -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as told:
        await Ends().connection.keep(serve)
    assert told.group_contains(ZeroDivisionError)


async def test_another_source_address_ends_the_session_and_the_next_one_begins_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends, source = Ends(wait=3600), "127.0.0.1"
    monkeypatch.setattr(netwatch, "source_to", lambda _peer: source)
    task = ends.keep(for_ever)
    await until(lambda: ends.connection.state is State.UP)
    source = "127.0.0.2"
    await until(lambda: len(ends.sessions) == 2)
    assert ends.connection.figures()["downs"] == {"address changed": 1}
    await cancelled(task)


async def test_where_routing_sends_tcp_another_way_than_the_path_check_a_change_counts_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends, seen = Ends(wait=3600), "127.0.0.9"
    monkeypatch.setattr(netwatch, "source_to", lambda _peer: seen)
    task = ends.keep(for_ever)
    await until(lambda: ends.connection.state is State.UP)
    for _ in range(3):
        ends.connection._look()
        await until(ends.connection._events.empty)
    assert ends.connection.number == 1
    seen = "127.0.0.8"
    await until(lambda: len(ends.sessions) == 2)
    assert ends.connection.figures()["downs"] == {"address changed": 1}
    await cancelled(task)


async def test_the_path_check_is_that_of_the_server_that_is_greeted_and_not_of_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends, greeted = Ends(), asyncio.Event()
    monkeypatch.setattr(netwatch, "source_to", lambda peer: "127.0.0.1" if peer == "127.0.0.1" else "10.0.0.1")

    @asynccontextmanager
    async def slowly(
        dial: states.Dial, number: int, _round_trip: RoundTrip, tell: Callable[[states.Event], None]
    ) -> AsyncIterator[Session]:
        ends.dialled.append(dial.server)
        assert number == 1, "given up in the greeting"
        tell(states.Dialled(source="127.0.0.1", peer="127.0.0.1"))
        await greeted.wait()
        yield cast("Session", Played())

    ends.connection._open_session = slowly
    task = ends.keep(for_ever)
    await until(lambda: ends.connection.state is State.HELLO)
    for _ in range(3):
        ends.connection._look()
        await until(ends.connection._events.empty)
    greeted.set()
    await until(lambda: ends.connection.state is State.UP)
    await cancelled(task)


async def test_what_was_learnt_of_the_way_is_forgotten_with_the_address_and_not_what_connack_tells() -> None:
    ends = Ends()

    async def serve(_session: Session) -> None:
        if ends.connection.number == 1:
            ends.source = "127.0.0.2"
            for _ in range(100):
                ends.connection._round_trip.answered(5.0)
            raise down()

    await ends.connection.keep(serve)
    assert ends.connection._round_trip.smoothed == 0.001


async def test_what_an_attempt_tells_that_was_given_up_is_not_taken_for_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends, source = Ends(wait=3600), "127.0.0.1"
    monkeypatch.setattr(netwatch, "source_to", lambda _peer: source)
    task = ends.keep(for_ever)
    await until(lambda: ends.connection.state is State.UP)
    late, source = ends.tell, "127.0.0.2"
    await until(lambda: len(ends.sessions) == 2)
    late(states.Failed(why=down()))
    late(states.Left())
    ends.connection.reloaded()
    await until(ends.connection._events.empty)
    assert ends.connection.state is State.UP
    assert ends.connection.number == 2
    await cancelled(task)


async def test_the_preferred_server_is_returned_to_with_a_disconnect() -> None:
    ends = Ends(down(Cause.REFUSED), servers=(FIRST, SECOND))
    task = ends.keep(for_ever)
    await until(lambda: len(ends.sessions) == 2)
    assert ends.dialled == [FIRST, SECOND, FIRST]
    assert ends.sessions[0].finished
    await cancelled(task)


async def test_thousands_of_reconnects_leave_nothing_in_memory() -> None:
    ends, sizes = Ends(), []

    async def serve(_session: Session) -> None:
        if ends.connection.number in {1_000, 4_000}:
            ends.sessions.clear()
            ends.dialled[:] = [FIRST] * ends.connection.number
            ends.told.clear()
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
        if ends.connection.number < 4_000:
            raise down()

    logging.disable()  # pytest keeps every record of the log
    tracemalloc.start()
    try:
        await ends.connection.keep(serve)
    finally:
        tracemalloc.stop()
        logging.disable(logging.NOTSET)
    # The list of what was dialled has grown by 3,000 places, of 8 bytes each.
    assert sizes[1] - sizes[0] < 100_000, sizes


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not reached():  # noqa: ASYNC110  nobody tells
            await asyncio.sleep(0.001)


async def cancelled(task: Awaitable[None]) -> None:
    assert isinstance(task, asyncio.Task)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task

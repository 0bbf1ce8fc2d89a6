"""Keeping a link, with sessions that are played."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import cast

import pytest

from agent.backoff import Backoff, Strategy
from agent.errors import Cause, ConnectRefusedError, LinkDownError
from agent.link.connection import Connection, State, Waits
from agent.link.session import Session


def waits(*, base: float = 0.001, stable_after: float = 60.0) -> Waits:
    backoff = Backoff(strategy=Strategy.FIXED, base=base, cap=base, jitter=0.0)
    return Waits(broker=backoff, own_link=backoff, stable_after=stable_after)


def playing(*ends: Exception | None, proven: bool = False) -> Callable[[int], object]:
    """Give one session after another: an exception refuses the connection, None opens it."""
    left = list(ends)

    @asynccontextmanager
    async def open_session(_number: int) -> AsyncIterator[Session]:
        end = left.pop(0) if left else None
        if end is not None:
            raise end
        yield cast("Session", SimpleNamespace(is_proven=proven))

    return open_session


def down(cause: Cause = Cause.LOST) -> LinkDownError:
    return LinkDownError("gone", cause=cause)


async def test_it_dials_until_a_session_is_served_to_its_end() -> None:
    told: list[str] = []
    connection = Connection(playing(down(), down(Cause.REFUSED)), waits(), tell=told.append)  # type: ignore[arg-type]

    async def serve(_session: Session) -> None:
        assert connection.state is State.UP

    await connection.keep(serve)
    assert connection.number == 3
    assert connection.state is State.STOPPED
    assert told[-2:] == ["up, connection 3", "stopped, connection 3"]


async def test_a_session_that_ends_is_followed_by_another() -> None:
    served = 0
    connection = Connection(playing(), waits())  # type: ignore[arg-type]

    async def serve(_session: Session) -> None:
        nonlocal served
        served += 1
        if served < 4:
            raise down()

    await connection.keep(serve)
    assert connection.number == 4


async def test_a_cancel_that_comes_with_the_end_of_the_link_is_not_swallowed() -> None:
    connection = Connection(playing(), waits())  # type: ignore[arg-type]
    ended = asyncio.Event()

    async def serve(_session: Session) -> None:
        ended.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            # What a TaskGroup does on Python 3.11 when a flow fails in the same turn of the event loop.
            raise down() from None

    async with asyncio.timeout(30):
        task = asyncio.get_running_loop().create_task(connection.keep(serve))
        await ended.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert task.cancelled()
    assert connection.number == 1


async def test_a_refusal_that_a_person_must_mend_is_not_repeated_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("agent.link.connection.asyncio.sleep", sleep)
    refused = ConnectRefusedError("bad password", reason_code=0x86)
    slow = Backoff(strategy=Strategy.FULL_JITTER, base=1.0, cap=30.0, jitter=0.0)
    connection = Connection(
        playing(refused, down()),  # type: ignore[arg-type]
        Waits(broker=slow, own_link=Backoff(strategy=Strategy.FIXED, base=2.0, cap=2.0, jitter=0.0), stable_after=60),
    )

    async def serve(_session: Session) -> None:
        pass

    await connection.keep(serve)
    assert 15.0 <= slept[0] <= 30.0
    assert slept[1] == 2.0


async def test_the_waits_begin_anew_after_a_proven_session_only() -> None:
    for proven, expected in ((True, [0, 0, 0]), (False, [0, 1, 2])):
        failures: list[int] = []

        class Noting(Backoff):
            def wait(self, failures_so_far: int, uniform: object) -> float:  # noqa: ARG002
                failures.append(failures_so_far)  # noqa: B023  used at once
                return 0.0

        backoff = Noting(strategy=Strategy.FIXED, base=1.0, cap=1.0, jitter=0.0)
        connection = Connection(
            playing(proven=proven),  # type: ignore[arg-type]
            Waits(broker=backoff, own_link=backoff, stable_after=60),
        )

        async def serve(_session: Session) -> None:
            if len(failures) < 3:  # noqa: B023  used at once
                raise down()

        await connection.keep(serve)
        assert failures == expected

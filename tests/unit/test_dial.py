"""TCP connections to names with several addresses, and lookups that hang."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from agent.errors import Cause, LinkDownError
from agent.link import dial as module
from agent.link.dial import dial
from agent.link.resolve import Address, resolve
from agent.model import Server


@contextmanager
def listener(host: str, *, backlog: int = 10) -> Iterator[socket.socket]:
    with socket.socket() as sock:
        sock.bind((host, 0))
        sock.listen(backlog)
        yield sock


@contextmanager
def black_hole(host: str) -> Iterator[int]:
    """A port whose queue is full, so that the kernel drops each SYN."""
    with listener(host, backlog=0) as sock, ExitStack() as fillers:
        for _ in range(3):
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)  # noqa: FBT003  socket's own
            filler.connect_ex(sock.getsockname())
        yield sock.getsockname()[1]


def addresses(monkeypatch: pytest.MonkeyPatch, *found: tuple[str, int]) -> None:
    async def resolved(_host: str, _port: int) -> list[Address]:
        return [(socket.AF_INET, address) for address in found]

    monkeypatch.setattr(module, "resolve", resolved)


async def test_the_second_address_is_tried_while_the_first_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    with black_hole("127.0.0.1") as silent, listener("127.0.0.2") as good:
        addresses(monkeypatch, ("127.0.0.1", silent), good.getsockname())
        connected = await dial(Server(host="broker", port=1883), timeout=20, dead_after=10)
        with connected:
            assert connected.getpeername() == good.getsockname()


async def test_the_second_address_is_tried_at_once_when_the_first_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with listener("127.0.0.2") as good:
        addresses(monkeypatch, ("127.0.0.1", 1), good.getsockname())
        connected = await dial(Server(host="broker", port=1883), timeout=20, dead_after=10)
        connected.close()


async def test_all_have_failed_once_the_first_tries_have(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses(monkeypatch, ("127.0.0.1", 1), ("127.0.0.2", 1))
    with pytest.raises(LinkDownError) as told:
        await dial(Server(host="broker", port=1883), timeout=20, dead_after=10, again_after=0.01)
    assert told.value.cause is Cause.REFUSED


async def test_what_is_tried_again_is_given_up_with_the_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    with black_hole("127.0.0.1") as silent:
        addresses(monkeypatch, ("127.0.0.1", silent))
        with pytest.raises(LinkDownError) as told:
            await dial(Server(host="broker", port=1883), timeout=0.3, dead_after=10, again_after=0.05)
    assert told.value.cause is Cause.CONNECT_TIMEOUT


async def test_the_first_address_wins_though_others_would_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with listener("127.0.0.1") as first, listener("127.0.0.2") as second:
        addresses(monkeypatch, first.getsockname(), second.getsockname())
        with await dial(Server(host="broker", port=1883), timeout=20, dead_after=10) as connected:
            assert connected.getpeername() == first.getsockname()
            second.setblocking(False)  # noqa: FBT003  socket's own
            with pytest.raises(BlockingIOError):
                second.accept()


async def test_if_all_addresses_refuse_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses(monkeypatch, ("127.0.0.1", 1), ("127.0.0.2", 1))
    with pytest.raises(LinkDownError, match="cannot connect to broker:1883: ") as caught:
        await dial(Server(host="broker", port=1883), timeout=20, dead_after=10)
    assert caught.value.cause is Cause.REFUSED


async def test_that_an_address_refuses_says_more_than_that_there_is_no_way_to_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # TCP has no way to a group (RFC 9293 section 3.9.2.3), as it has none to an IPv6 address where there is no IPv6.
    addresses(monkeypatch, ("127.0.0.1", 1), ("224.0.0.1", 1))
    with pytest.raises(LinkDownError) as told:
        await dial(Server(host="broker", port=1883), timeout=20, dead_after=10)
    assert told.value.cause is Cause.REFUSED


async def test_a_broker_that_is_silent_costs_the_time_that_was_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    with black_hole("127.0.0.1") as silent:
        addresses(monkeypatch, ("127.0.0.1", silent))
        with pytest.raises(LinkDownError, match=r"no connection to broker:1883 within 0\.2 s") as caught:
            await dial(Server(host="broker", port=1883), timeout=0.2, dead_after=10)
    assert caught.value.cause.is_own_link


async def test_an_address_needs_no_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(*_: object, **__: object) -> None:
        raise AssertionError("a thread")

    monkeypatch.setattr(threading, "Thread", no_thread)
    assert await resolve("127.0.0.1", 1883) == [(socket.AF_INET, ("127.0.0.1", 1883))]
    assert (await resolve("::1", 1883))[0][0] == socket.AF_INET6


async def test_a_name_that_does_not_exist_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(LinkDownError, match=r"cannot resolve no-such-host\.invalid: ") as caught:
        await dial(Server(host="no-such-host.invalid", port=1883), timeout=60, dead_after=10)
    assert caught.value.cause is Cause.NAME_RESOLUTION


async def test_a_lookup_that_hangs_is_given_up_and_not_begun_again_beside_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lookups = []
    go_on = threading.Event()
    original = socket.getaddrinfo

    def hanging(host: str, port: int, *, type: int, flags: int) -> object:  # noqa: A002  socket's name
        if not flags:
            lookups.append(host)
            go_on.wait(30)
            host = "127.0.0.1"
        return original(host, port, type=type, flags=flags)

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    with listener("127.0.0.1") as good:
        port = good.getsockname()[1]
        for _ in range(3):
            with pytest.raises(LinkDownError, match="within"):
                await dial(Server(host="slow-name", port=port), timeout=0.1, dead_after=10)
        assert lookups == ["slow-name"]
        # The event loop's own threads are free for others.
        assert await asyncio.to_thread(lambda: 42) == 42
        go_on.set()
        connected = await dial(Server(host="slow-name", port=port), timeout=20, dead_after=10)
        connected.close()

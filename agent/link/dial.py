"""TCP connections: every address of a name, and the options that a link needs which roams."""

import asyncio
import errno
import socket
from collections.abc import Sequence
from contextlib import suppress

from agent.errors import Cause, LinkDownError
from agent.link.resolve import Address, resolve
from agent.model import Server

_CAUSES = {
    errno.ECONNREFUSED: Cause.REFUSED,
    errno.ECONNRESET: Cause.RESET,
    errno.EPIPE: Cause.RESET,
    errno.ENETUNREACH: Cause.NO_ROUTE,
    errno.EHOSTUNREACH: Cause.NO_ROUTE,
    errno.ENETDOWN: Cause.NO_ROUTE,
    errno.ETIMEDOUT: Cause.CONNECT_TIMEOUT,
}
_HEAD_START = 0.25  # seconds, RFC 8305 section 5


async def dial(
    server: Server,
    *,
    timeout: float,  # noqa: ASYNC109  of all steps
    dead_after: float,
    again_after: float | None = None,
) -> socket.socket:
    """Return a connected, non-blocking TCP socket within `timeout` seconds, whichever address answers first.

    The kernel repeats a SYN that was lost after a second, and then less and less often. With `again_after` another one
    is sent every so many seconds: it should be more than a round trip.
    Unacknowledged data ends the connection after `dead_after` seconds (TCP_USER_TIMEOUT, tcp(7)), and small packets go
    out at once (TCP_NODELAY). Raises LinkDownError.
    """
    try:
        async with asyncio.timeout(timeout):
            return await _first(await resolve(server.host, server.port), dead_after, again_after)
    except TimeoutError:
        raise LinkDownError(f"no connection to {server} within {timeout:g} s", cause=Cause.CONNECT_TIMEOUT) from None
    except (socket.gaierror, UnicodeError) as exc:
        raise LinkDownError(f"cannot resolve {server.host}: {exc}", cause=Cause.NAME_RESOLUTION) from exc
    except OSError as exc:
        raise LinkDownError(f"cannot connect to {server}: {exc.strerror or exc}", cause=cause_of(exc)) from exc


def cause_of(error: OSError) -> Cause:
    """Return what a failure of a socket means."""
    return _CAUSES.get(error.errno or 0, Cause.LOST)


async def _first(addresses: Sequence[Address], dead_after: float, again_after: float | None) -> socket.socket:
    """Connect to all addresses, each with a head start before the next (RFC 8305), and return the first that is up.

    Raises the OSError of the last one to fail if none is, but rather that of a host that was reached: where this side
    has no IPv6, a name's other address says nothing of the broker.
    """
    won: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
    try:
        async with asyncio.TaskGroup() as group:
            before: asyncio.Task[OSError | None] | None = None
            tries = []
            for address in addresses:
                before = group.create_task(_try(address, dead_after, won, before))
                tries.append(before)
            again = [] if again_after is None else [group.create_task(_again(addresses, dead_after, won, again_after))]
            group.create_task(_cancel_once(won, tries, again))
    except BaseException:
        if won.done():
            won.result().close()
        raise
    if won.done():
        return won.result()
    failures = [failure for task in reversed(tries) if (failure := task.result()) is not None]
    raise next((failure for failure in failures if not cause_of(failure).is_own_link), failures[0])


async def _try(
    address: Address,
    dead_after: float,
    won: asyncio.Future[socket.socket],
    before: asyncio.Task[OSError | None] | None,
) -> OSError | None:
    if before is not None:
        await asyncio.wait([before], timeout=_HEAD_START)
    if won.done():
        return None
    try:
        connected = await _connect(*address, dead_after)
    except OSError as exc:
        return exc
    if won.done():
        connected.close()
    else:
        won.set_result(connected)
    return None


async def _again(
    addresses: Sequence[Address], dead_after: float, won: asyncio.Future[socket.socket], again_after: float
) -> None:
    """Try all addresses again, now and then, beside the tries that are still under way."""
    async with asyncio.TaskGroup() as group:
        while True:
            await asyncio.sleep(again_after)
            for address in addresses:
                group.create_task(_try(address, dead_after, won, None))


async def _cancel_once(
    won: asyncio.Future[socket.socket],
    tries: Sequence[asyncio.Task[OSError | None]],
    again: Sequence[asyncio.Task[None]],
) -> None:
    """Cancel what is still being tried once one is up, or all have failed."""
    waiting: set[asyncio.Future[object]] = {*tries}  # type: ignore[arg-type]
    while waiting and not won.done():
        _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in (*tries, *again):
        task.cancel()


async def _connect(family: int, address: object, dead_after: float) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)  # noqa: FBT003  socket's own
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(dead_after * 1000))
        await asyncio.get_running_loop().sock_connect(sock, address)  # type: ignore[arg-type]
    except BaseException:
        with suppress(OSError):
            sock.close()
        raise
    return sock

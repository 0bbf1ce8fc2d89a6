"""TCP connections: name resolution, one address after another, and the options a link that roams needs."""

import asyncio
import errno
import socket

from agent.errors import Cause, LinkDownError

_CAUSES = {
    errno.ECONNREFUSED: Cause.REFUSED,
    errno.ECONNRESET: Cause.RESET,
    errno.ENETUNREACH: Cause.NO_ROUTE,
    errno.EHOSTUNREACH: Cause.NO_ROUTE,
    errno.ENETDOWN: Cause.NO_ROUTE,
    errno.ETIMEDOUT: Cause.CONNECT_TIMEOUT,
}


async def dial(host: str, port: int, *, timeout: float, dead_after: float) -> socket.socket:  # noqa: ASYNC109  of all steps
    """Return a connected, non-blocking TCP socket within `timeout` seconds; each address of the name is tried.

    Unacknowledged data ends the connection after `dead_after` seconds (TCP_USER_TIMEOUT, tcp(7)), and small packets go
    out at once (TCP_NODELAY). Raises LinkDownError.
    """
    loop = asyncio.get_running_loop()
    where = f"{host}:{port}"
    try:
        async with asyncio.timeout(timeout):
            addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            failure: OSError | None = None
            for family, kind, protocol, _, address in addresses:
                try:
                    return await _connect(family, kind, protocol, address, dead_after)
                except OSError as exc:
                    failure = exc
    except TimeoutError:
        raise LinkDownError(f"no connection to {where} within {timeout:g} s", cause=Cause.CONNECT_TIMEOUT) from None
    except (socket.gaierror, UnicodeError) as exc:
        raise LinkDownError(f"cannot resolve {host}: {exc}", cause=Cause.NAME_RESOLUTION) from exc
    reason = failure.strerror if failure and failure.strerror else str(failure)
    cause = _CAUSES.get(failure.errno or 0, Cause.LOST) if failure else Cause.NAME_RESOLUTION
    raise LinkDownError(f"cannot connect to {where}: {reason}", cause=cause) from failure


async def _connect(family: int, kind: int, protocol: int, address: object, dead_after: float) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)  # noqa: FBT003  socket's own
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(dead_after * 1000))
        await asyncio.get_running_loop().sock_connect(sock, address)  # type: ignore[arg-type]
    except BaseException:
        sock.close()
        raise
    return sock

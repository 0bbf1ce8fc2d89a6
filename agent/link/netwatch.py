"""The network's news (rtnetlink(7)), and the path check. The news only say when to look: what counts is the look."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

log = logging.getLogger(__name__)

_LINK, _IPV4_ADDRESS, _IPV4_ROUTE, _IPV6_ADDRESS, _IPV6_ROUTE = 0x1, 0x10, 0x40, 0x100, 0x400
_GROUPS = _LINK | _IPV4_ADDRESS | _IPV4_ROUTE | _IPV6_ADDRESS | _IPV6_ROUTE
"""RTMGRP_ values of <linux/rtnetlink.h>."""

_GATHER = 0.05
"""One change makes several events; they are answered together, so many seconds after the first."""

_MOST_READS = 100
_LARGEST = 65_536
_ANYWHERE = ("192.0.2.1", "2001:db8::1")
"""Addresses that nobody has (RFC 5737, RFC 3849): where the default route leads."""

_PORT = 9


def source_to(peer: str | None) -> str | None:
    """Return the address from which a packet to `peer` would go now; None: there is no route.

    Connecting a UDP socket sends nothing (udp(7)). With `peer` None it is the way to anywhere.
    """
    for host in (peer,) if peer else _ANYWHERE:
        with suppress(OSError):
            # A zone (fe80::1%2) is read by getaddrinfo only.
            [(family, kind, _, _, address)] = socket.getaddrinfo(
                host, _PORT, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
            )
            with socket.socket(family, kind) as sock:
                sock.connect(address)
                return str(sock.getsockname()[0])
    return None


@contextmanager
def watching(changed: Callable[[], None]) -> Iterator[None]:
    """Call `changed` after a link, an address or a route has changed; where that cannot be watched it is said once."""
    loop = asyncio.get_running_loop()
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    except OSError as exc:
        _cannot(exc)
        yield
        return
    with sock:
        try:
            sock.bind((0, _GROUPS))
        except OSError as exc:
            _cannot(exc)
            yield
            return
        timers: list[asyncio.TimerHandle] = []

        def tell() -> None:
            timers.clear()
            changed()

        def read() -> None:
            if _drain(sock) and not timers:
                timers.append(loop.call_later(_GATHER, tell))

        loop.add_reader(sock, read)
        try:
            yield
        finally:
            loop.remove_reader(sock)
            for timer in timers:
                timer.cancel()


def _cannot(why: OSError) -> None:
    log.warning("cannot watch the network (%s): changes are noticed within a second instead", why.strerror or why)


def _drain(sock: socket.socket) -> bool:
    """Read what is there; tell whether it is news. What did not fit into the buffer (ENOBUFS) is news too."""
    for count in range(_MOST_READS):
        try:
            sock.recv(_LARGEST)
        except OSError as exc:
            return count > 0 or exc.errno == errno.ENOBUFS
    return True

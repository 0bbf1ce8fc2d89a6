"""Names to addresses, without a thread of the event loop's own: a lookup that hangs must hold up nothing else.

getaddrinfo(3) can take half a minute where a resolver does not answer, and cannot be cancelled. Each name has one
lookup at a time, in a thread that does not keep the process from ending.
"""

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Any

Address = tuple[socket.AddressFamily, Any]
"""A family, and what a socket of that family connects to."""

_Lookup = asyncio.Future[list[Address]]
_running: dict[tuple[str, int], _Lookup] = {}


async def resolve(host: str, port: int) -> list[Address]:
    """Return the addresses of a host in the order in which they should be tried (RFC 6724). Raises OSError."""
    with suppress(socket.gaierror):
        return _addresses(host, port, flags=socket.AI_NUMERICHOST)  # no lookup at all
    lookup = _running.get((host, port))
    if lookup is None or lookup.done() or lookup.get_loop() is not asyncio.get_running_loop():
        lookup = _running[host, port] = asyncio.get_running_loop().create_future()
        threading.Thread(target=_look_up, args=(host, port, lookup), name=f"look up {host}", daemon=True).start()
    return await asyncio.shield(lookup)


def _look_up(host: str, port: int, lookup: _Lookup) -> None:
    try:
        addresses, failure = _addresses(host, port, flags=0), None
    except (OSError, UnicodeError) as exc:
        addresses, failure = [], exc
    with suppress(RuntimeError):  # the loop has ended meanwhile
        lookup.get_loop().call_soon_threadsafe(_told, lookup, addresses, failure)


def _told(lookup: _Lookup, addresses: list[Address], failure: Exception | None) -> None:
    if failure is None:
        lookup.set_result(addresses)
    else:
        lookup.set_exception(failure)
        lookup.exception()  # whoever asked may have given up


def _addresses(host: str, port: int, *, flags: int) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, address) for family, _, _, _, address in found]

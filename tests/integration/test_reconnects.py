"""Thousands of real connections, one after another, leave nothing behind."""

import asyncio
import gc
import logging
import tracemalloc
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from agent.backoff import Backoff, Strategy
from agent.link import states
from agent.link.connection import Connection
from agent.link.machine import Waits
from agent.link.opening import Hello, open_session
from agent.link.progress import RoundTrip
from agent.link.servers import Servers
from agent.link.session import Session
from agent.model import Server

RECONNECTS, WARM = 4_000, 500
CONNACK = b"\x20\x03\x00\x00\x00"
REFUSED = b"\x20\x03\x00\x89\x00"


async def test_thousands_of_reconnects_leave_nothing_in_memory_and_no_descriptor_open() -> None:
    """Every third attempt is refused, every third cut off before CONNACK; the others end after it."""
    count = 0
    sizes: list[int] = []

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        await reader.read(1000)
        count += 1
        writer.write((CONNACK, REFUSED, b"")[count % 3])
        writer.close()

    def opened(
        dial: states.Dial, number: int, round_trip: RoundTrip, tell: Callable[[states.Event], None]
    ) -> AbstractAsyncContextManager[Session]:
        if number in {WARM, RECONNECTS}:
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
        return open_session(Hello(server=dial.server, client_id="rover"), round_trip=round_trip, tell=tell)

    async def serve(session: Session) -> None:
        if connection.number < RECONNECTS:
            await session.watch()

    server = await asyncio.start_server(served, "127.0.0.1", 0)
    at_once = Backoff(strategy=Strategy.FIXED, base=0.0, cap=0.0, jitter=0.0)
    connection = Connection(
        Servers([Server(host="127.0.0.1", port=server.sockets[0].getsockname()[1])]),
        Waits(broker=at_once, own_link=at_once, stable_after=60, hello_timeout=10, return_after=0),
        open_session=opened,
        is_reachable=lambda _server: asyncio.sleep(0, result=True),
        dead_after=10,
    )
    descriptors = open_descriptors()
    logging.disable()  # pytest keeps every record of the log
    tracemalloc.start()
    try:
        async with server, asyncio.timeout(110):
            await connection.keep(serve)
    finally:
        tracemalloc.stop()
        logging.disable(logging.NOTSET)
    assert connection.number >= RECONNECTS
    assert sizes[1] - sizes[0] < 300_000, sizes
    assert open_descriptors() <= descriptors + 2


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))

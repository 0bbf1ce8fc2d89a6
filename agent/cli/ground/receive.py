"""`roamd ground run`."""

import argparse
import asyncio
import signal
import sqlite3
from dataclasses import replace

from agent.backoff import Backoff
from agent.cli.ground.broker import backoff, broker, hello, prefix
from agent.cli.logs import log_to_stderr
from agent.errors import StorageError
from agent.ground.file import opened
from agent.ground.prefix import Prefix
from agent.ground.receive import Ground
from agent.ground.sessions import own_client_id
from agent.groups import only
from agent.link.opening import Hello

_RECEIVE_MAXIMUM = 1_000
_SESSION_EXPIRY = 7 * 86_400


def run(arguments: argparse.Namespace) -> int:
    """Receive until SIGTERM or SIGINT."""
    log_to_stderr("info")
    where = prefix(arguments)
    table = broker(arguments)
    with only(StorageError), opened(arguments.db) as database:
        client_id = arguments.client_id or own_client_id(database)
        greeting = replace(
            hello(table), client_id=client_id, receive_maximum=_RECEIVE_MAXIMUM, session_expiry=_SESSION_EXPIRY
        )  # fmt: skip
        asyncio.run(_run(database, where, greeting, arguments.share, backoff(table)))
    return 0


async def _run(database: sqlite3.Connection, where: Prefix, greeting: Hello, share: str | None, waits: Backoff) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await Ground(database, where, greeting, share=share, backoff=waits).run(stop)

"""The other side, as processes of its own, and a small device that answers it."""

import asyncio
import json
import os
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agent.link.opening import Hello, open_session
from agent.link.session import Session
from agent.model import Inbound, Message, Server
from tests.support.agent_process import ROOT, SYSTEMD
from tests.support.child import Child
from tests.support.outbox_file import Identity

_LOOK_EVERY = 0.02


def environment() -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("ROAMD_") and key not in SYSTEMD}
    return {**clean, "PYTHONUNBUFFERED": "1"}


async def ground(*arguments: str | Path) -> Child:
    """Run `roamd ground ARGUMENTS` to its end."""
    argv = (sys.executable, "-m", "agent", "ground", *map(str, arguments))
    child = await Child.spawn(argv, name=f"ground {arguments[0]}", env=environment(), cwd=ROOT)
    try:
        await child.wait(within=60)
    finally:
        await child.end()
    return child


class GroundProcess:
    """`roamd ground --broker URL --db FILE ...`, which a test may kill and start again."""

    def __init__(self, url: str, db: Path, *options: str, ready: str = "receiving what is below") -> None:
        self.db = db
        self._ready = ready
        self._argv = (sys.executable, "-m", "agent", "ground", "--broker", url, "--db", str(db), *options)
        self._child: Child | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.child.end()

    @property
    def child(self) -> Child:
        assert self._child is not None
        return self._child

    @property
    def lines(self) -> list[str]:
        """What it has logged since its last start."""
        return self.child.err

    async def start(self) -> None:
        """Start it, and return once it has said that it is `ready`: all its subscriptions stand."""
        self._child = await Child.spawn(self._argv, name=f"ground {self.db.name}", env=environment(), cwd=ROOT)
        await self.line(self._ready)

    async def line(self, pattern: str) -> None:
        await self.child.line(pattern, lines=self.lines, within=30)

    def records(self) -> list[Identity]:
        """What is kept, in the order of the streams."""
        with closing(sqlite3.connect(self.db, timeout=30)) as database:
            return database.execute(
                "SELECT stream.name, epoch, seq FROM record JOIN stream ON stream.id = record.stream"
                " ORDER BY stream.name, epoch, seq"
            ).fetchall()

    def one(self, query: str, *values: object) -> Any:  # noqa: ANN401
        with closing(sqlite3.connect(self.db, timeout=30)) as database:
            found = database.execute(query, values).fetchone()
        return found[0] if found else None

    async def until(self, condition: Callable[[Self], bool], *, within: float = 30.0) -> None:
        """Wait until the file is so."""
        try:
            async with asyncio.timeout(within):
                while not condition(self):  # noqa: ASYNC110  another process writes the file
                    await asyncio.sleep(_LOOK_EVERY)
        except TimeoutError:
            raise TimeoutError(f"{len(self.records())} records; {self.child.story()}") from None


@asynccontextmanager
async def client(port: int, *filters: str, client_id: str = "test") -> AsyncIterator[Session]:
    """Return a session with these subscriptions that leaves nothing behind."""
    hello = Hello(server=Server(host="127.0.0.1", port=port), client_id=client_id, clean_start=True, session_expiry=0)
    async with open_session(hello) as session:
        if filters:
            await session.subscribe(*filters)
        yield session


async def publish(port: int, *messages: tuple[str, bytes | dict[str, Any] | list[Any]]) -> None:
    """Publish these at QoS 1, and return once the broker has them all."""
    async with client(port, client_id="publisher") as session:
        for topic, body in messages:
            payload = body if isinstance(body, bytes) else json.dumps(body).encode()
            assert await session.publish(Message(topic=topic, payload=payload)) < 0x80


async def perform(session: Session, replies: Sequence[dict[str, Any]]) -> tuple[Message, dict[str, Any]]:
    """Wait for a command, and answer it as a device does; return what it was."""
    message = await session.inbound.get()
    assert isinstance(message, Inbound)
    session.acknowledge(message)
    command = json.loads(message.payload)
    assert message.response_topic is not None
    for reply in replies:
        answer = Message(
            topic=message.response_topic,
            payload=json.dumps({"id": command["id"], **reply}).encode(),
            correlation_data=message.correlation_data,
        )
        await session.publish(answer)
    received = Message(
        topic=message.topic,
        payload=message.payload,
        retain=message.retain,
        expiry=message.expiry,
        response_topic=message.response_topic,
        correlation_data=message.correlation_data,
    )
    return received, command

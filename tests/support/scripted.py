"""A broker on 127.0.0.1 that does what it is told, records everything, and judges the client's conduct.

    broker.scripts.append(Script(properties={"receive_maximum": 5}, abort_after=20))  # for the next connection
    async with broker.dropping_acks():
        await broker.wait_for(lambda: len(broker.publishes) >= 5)
    assert broker.violations == []

It does not route: what the client subscribes to is sent by `deliver()`.
"""

import asyncio
import socket
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.support.bell import Bell
from tests.support.conduct import Session, Violation
from tests.support.connection import Connection, Phase
from tests.support.packets import Connect, Disconnect, Puback, Pubcomp, Publish, Pubrec, Will
from tests.support.ports import free_port
from tests.support.script import Hello, Received, Script
from tests.support.wire import MQTT_3_1_1, MQTT_5, Properties

__all__ = ["Hello", "Script", "ScriptedBroker"]

T = TypeVar("T")
Answer = Puback | Pubrec | Pubcomp
NEVER = 0xFFFF_FFFF
"""A session expiry that does not come (MQTT 5 section 3.1.2.11.2)."""


class ScriptedBroker:
    """`scripts` are for the next connections, one each; `default` for all others.

    It knows one protocol `level`: 5, or 4, which is MQTT 3.1.1. A CONNECT of another is refused.

    A small `receive_buffer` (bytes) makes `stalling()` felt by the client soon. `clock` tells monotonic seconds.
    """

    def __init__(
        self,
        *,
        default: Script | None = None,
        level: int = MQTT_5,
        receive_buffer: int | None = None,
        host: str = "127.0.0.1",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.host = host
        self.level = level
        self.default = default or Script()
        self.scripts: deque[Script] = deque()
        self.clock = clock
        self.port = free_port()
        self.connections: list[Connection] = []
        self.publishes: list[Received] = []
        """Each PUBLISH in the order of arrival, retransmissions too."""
        self.accepted: list[Received] = []
        """What a subscriber would have got: not what was refused, and QoS 2 once."""
        self.violations: list[Violation] = []
        self.sessions: dict[str, Session] = {}
        self._receive_buffer = receive_buffer
        self._route: Callable[[Connection, Answer], None] = Connection.answer
        self._stalled: set[Connection] | None = None
        self._bell = Bell()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()
        sys.stdout.write(f"--- scripted broker: {self.story()}\n")

    # What a test reads.

    @property
    def url(self) -> str:
        return f"mqtt://{self.host}:{self.port}"

    @property
    def connection(self) -> Connection:
        """The newest connection that got its CONNACK and has not ended."""
        for item in reversed(self.connections):
            if item.phase is Phase.OPEN:
                return item
        raise LookupError(f"nobody is connected: {self.story()}")

    @property
    def connected(self) -> bool:
        return any(item.phase is Phase.OPEN for item in self.connections)

    @property
    def disconnects(self) -> list[Disconnect]:
        return [item.disconnect for item in self.connections if item.disconnect is not None]

    @property
    def wills(self) -> list[Will]:
        """The wills of the connections that ended without DISCONNECT 0x00."""
        return [item.will_due for item in self.connections if item.will_due is not None]

    def wait_for(self, condition: Callable[[], T], timeout: float = 30.0) -> Coroutine[Any, Any, T]:
        """Wait until `condition()` is true, and return what it returned; looked at after each event."""
        return self._bell.until(condition, within=timeout, story=self.story)

    def story(self) -> str:
        """What happened so far, for a failing test."""
        lines = [
            f"{item.number}: {item.phase.name} {item.publishes} publishes, client's DISCONNECT: {item.disconnect}"
            for item in self.connections[-20:]
        ]
        counts = f"{len(self.connections)} connections, {len(self.publishes)} publishes, {len(self.accepted)} accepted"
        return "\n".join((counts, *lines, *map(str, self.violations[:20])))

    # What a test does.

    async def start(self) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self._receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        sock.bind((self.host, self.port))
        self._server = await asyncio.get_running_loop().create_server(self._connection, sock=sock)

    async def stop(self) -> None:
        """Refuse new connections and reset the others."""
        assert self._server is not None
        self._server.close()
        for item in self.connections:
            item.abort()
        await self.wait_for(lambda: all(item.closed is not None for item in self.connections))
        await self._server.wait_closed()

    def deliver(
        self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, properties: Properties | None = None
    ) -> int | None:
        """Send a message to the client, and again (DUP) when it resumes its session; returns the packet identifier."""
        connection = self.connection
        outgoing = connection.session.outgoing
        packet_id = next(number for number in range(1, 65_536) if number not in outgoing) if qos else None
        packet = Publish(
            topic=topic, payload=payload, qos=qos, retain=retain, packet_id=packet_id, properties=properties or {}
        )
        if packet_id is not None:
            outgoing[packet_id] = packet
        connection.send(packet)
        return packet_id

    def lose_sessions(self) -> None:
        """Forget all sessions: the next CONNACK says Session Present = 0."""
        self.sessions.clear()

    def expect_client_memory_lost(self) -> None:
        """The client's process is started again: it need not know any more which packets it had in flight."""
        for session in self.sessions.values():
            session.forget_client()

    # Faults: in force for as long as their block.

    @asynccontextmanager
    async def playing(self, script: Script) -> AsyncIterator[None]:
        """All new connections follow this script."""
        before, self.default = self.default, script
        try:
            yield
        finally:
            self.default = before

    @asynccontextmanager
    async def dropping_acks(self) -> AsyncIterator[None]:
        """PUBACK, PUBREC and PUBCOMP are never sent."""
        async with self._routing(lambda _connection, _answer: None):
            yield

    @asynccontextmanager
    async def holding_acks(self) -> AsyncIterator[None]:
        """Acknowledgements are sent when the block ends, in their order."""
        held: list[tuple[Connection, Answer]] = []
        async with self._routing(lambda connection, answer: held.append((connection, answer))):
            try:
                yield
            finally:
                for connection, answer in held:
                    connection.answer(answer)

    @asynccontextmanager
    async def delaying_acks(self, seconds: float) -> AsyncIterator[None]:
        """Each acknowledgement is sent so much later."""
        loop = asyncio.get_running_loop()
        async with self._routing(lambda connection, answer: loop.call_later(seconds, connection.answer, answer)):
            yield

    @asynccontextmanager
    async def reversing_acks(self, count: int) -> AsyncIterator[None]:
        """Acknowledgements are gathered until there are `count`, and sent in reverse; the rest when the block ends."""
        held: list[tuple[Connection, Answer]] = []

        def release() -> None:
            while held:
                connection, answer = held.pop()
                connection.answer(answer)

        def gather(connection: Connection, answer: Answer) -> None:
            held.append((connection, answer))
            if len(held) >= count:
                release()

        async with self._routing(gather):
            try:
                yield
            finally:
                release()

    @asynccontextmanager
    async def stalling(self) -> AsyncIterator[None]:
        """Nothing is read from any connection, old or new: the client's socket fills up."""
        self._stalled = {item for item in self.connections if item.phase is not Phase.ENDED}
        for item in self._stalled:
            item.stall()
        try:
            yield
        finally:
            stalled, self._stalled = self._stalled, None
            for item in stalled:
                item.resume()

    @asynccontextmanager
    async def unreachable(self) -> AsyncIterator[None]:
        """Connections are reset, and new ones refused; afterwards it listens again on its port."""
        await self.stop()
        try:
            yield
        finally:
            await self.start()

    @asynccontextmanager
    async def _routing(self, route: Callable[[Connection, Answer], object]) -> AsyncIterator[None]:
        before, self._route = self._route, route  # type: ignore[assignment]
        try:
            yield
        finally:
            self._route = before

    # What its connections ask of it.

    def _connection(self) -> Connection:
        script = self.scripts.popleft() if self.scripts else self.default
        return Connection(self, len(self.connections) + 1, script)

    def made(self, connection: Connection) -> None:
        self.connections.append(connection)
        if self._stalled is not None:
            self._stalled.add(connection)
            connection.stall()
        self.changed()

    def changed(self) -> None:
        self._bell.ring()

    def report(self, statement: str, text: str, connection: int) -> None:
        self.violations.append(Violation(statement=statement, text=text, connection=connection))

    def open_session(self, connection: Connection, connect: Connect) -> tuple[Session, bool]:
        """Give the connection its session, and whether that was present."""
        client_id = connect.client_id or f"assigned-{connection.number}"
        for other in self.connections:
            if other is not connection and other.phase is not Phase.ENDED and other.session.client_id == client_id:
                other.end(0x8E)
        kept = None if connect.clean_start else self.sessions.get(client_id)
        present = connection.script.session_present
        if present is None:
            present = kept is not None
        session = kept if kept is not None and present else Session(client_id)
        # Without Clean Session, a session of MQTT 3.1.1 outlives its connections (3.1.1 section 3.1.2.4).
        otherwise = NEVER if self.level == MQTT_3_1_1 and not connect.clean_start else 0
        expiry = connect.properties.get("session_expiry_interval", otherwise)
        assert isinstance(expiry, int)
        session.expiry = expiry
        self.sessions[client_id] = session
        return session, present

    def received(self, publish: Received, *, first: bool) -> None:
        self.publishes.append(publish)
        if first and (publish.code is None or publish.code < 0x80):
            self.accepted.append(publish)

    def acknowledge(self, connection: Connection, answer: Answer) -> None:
        self._route(connection, answer)

    def ended(self, connection: Connection) -> None:
        session = connection.session
        used = any(item.session is session and item.phase is not Phase.ENDED for item in self.connections)
        if session.expiry == 0 and not used and self.sessions.get(session.client_id) is session:
            del self.sessions[session.client_id]
        self.changed()

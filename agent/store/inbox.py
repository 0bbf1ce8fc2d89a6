"""The inbox: what was received and must not be done twice. It is written in the outbox's transactions.

A command is durable before it is acknowledged, and its result is in the transaction that has the result's row of the
outbox. What is said twice is known: by its identity for as long as it is remembered, and by its packet at once.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from agent.model import Inbound
from agent.store.book import Book
from agent.store.database import Database

_MOST_REMEMBERED = 10_000
_MOST_PACKETS = 1_000
_FORGET_EVERY = 3_600_000  # Unix ms
_FORGET_AFTER = 1_000  # commands


class Standing(IntEnum):
    """How far a command has come: the column `state`."""

    WAITING = 0
    RUNNING = 1
    DONE = 2


@dataclass(slots=True, kw_only=True)
class Entry:
    """One command that is not done. Times are Unix ms; `is_old`: an earlier process received it."""

    number: int
    identity: str | None
    name: str
    payload: bytes
    response_topic: str | None
    correlation_data: bytes | None
    expires_ts: int | None
    standing: Standing = Standing.WAITING
    is_old: bool = False

    @property
    def is_running(self) -> bool:
        """Whether it was begun: with `is_old`, by a process that did not end it."""
        return self.standing is Standing.RUNNING


@dataclass(slots=True)
class _Known:
    number: int
    standing: Standing
    received_ts: int


class Inbox:
    """Commands, by number, in the order in which they came.

    `news` is set when one waits to be run; what is to be written goes into `book`. Done ones are remembered for
    `remember` seconds.
    """

    def __init__(self, database: Database, book: Book, *, remember: float) -> None:
        self.news = asyncio.Event()
        self._database = database
        self._book = book
        self._remember = remember
        self._open: dict[int, Entry] = {}
        self._known: dict[str, _Known] = {}
        self._packets: dict[int, tuple[str, bytes, _Known]] = {}
        self._senders: dict[str, int] = {}
        self._held: set[int] = set()
        self._number = 0
        self._forgotten_ts = 0

    async def load(self) -> None:
        """Read what earlier processes left. Raises StorageError."""
        rows = self._database.rows
        for (number,) in await rows("SELECT seq FROM sqlite_sequence WHERE name = 'command'"):
            self._number = number
        for number, identity, state, received_ts in await rows(
            "SELECT number, identity, state, received_ts FROM command WHERE identity IS NOT NULL ORDER BY number"
        ):
            self._known[identity] = _Known(number, Standing(state), received_ts)
        for entry in await rows(
            "SELECT number, identity, name, payload, response_topic, correlation_data, expires_ts, state,"
            " packet_id, received_ts FROM command WHERE state < 2 ORDER BY number"
        ):
            self._load(*entry)
        for number, name, payload, packet_id, received_ts in await rows(
            "SELECT number, name, payload, packet_id, received_ts FROM command"
            " WHERE identity IS NULL AND packet_id IS NOT NULL AND state = 2 ORDER BY number DESC LIMIT ?",
            (_MOST_PACKETS,),
        ):
            found = self._packets.get(packet_id)
            if found is None or found[2].number < number:
                self._packets[packet_id] = (name, payload, _Known(number, Standing.DONE, received_ts))
        self._senders = dict(await rows("SELECT name, seq FROM sender"))
        self._held = {packet_id for (packet_id,) in await rows("SELECT packet_id FROM held")}
        if self._open:
            self.news.set()

    def _load(  # noqa: PLR0917  as the row is
        self,
        number: int,
        identity: str | None,
        name: str,
        payload: bytes,
        response_topic: str | None,
        correlation_data: bytes | None,
        expires_ts: int | None,
        state: int,
        packet_id: int | None,
        received_ts: int,
    ) -> None:
        entry = Entry(
            number=number, identity=identity, name=name, payload=payload, response_topic=response_topic,
            correlation_data=correlation_data, expires_ts=expires_ts, standing=Standing(state), is_old=True,
        )  # fmt: skip
        self._open[number] = entry
        if packet_id is not None:
            known = self._known[identity] if identity is not None else _Known(number, entry.standing, received_ts)
            self._packets[packet_id] = (name, payload, known)

    # In.

    def accept(
        self, inbound: Inbound, *, name: str, identity: str | None, expires_ts: int | None, now_ts: int
    ) -> Entry | int:
        """Take a command in; where it is known already, return the number that it has."""
        if (known := self._find(inbound, name, identity)) is not None:
            return known.number
        self._forget(now_ts)
        self._number += 1
        entry = Entry(
            number=self._number, identity=identity, name=name, payload=inbound.payload,
            response_topic=inbound.response_topic, correlation_data=inbound.correlation_data, expires_ts=expires_ts,
        )  # fmt: skip
        known = _Known(self._number, Standing.WAITING, now_ts)
        self._open[entry.number] = entry
        if identity is not None:
            self._known[identity] = known
        if inbound.packet_id is not None:
            self._packets.pop(inbound.packet_id, None)
            self._packets[inbound.packet_id] = (name, inbound.payload, known)
            if len(self._packets) > _MOST_PACKETS:
                del self._packets[next(iter(self._packets))]
        self._book.write(
            _INSERT, entry.number, identity, name, inbound.packet_id, now_ts, expires_ts, entry.payload,
            entry.response_topic, entry.correlation_data, Standing.WAITING,
        )  # fmt: skip
        return entry

    def _find(self, inbound: Inbound, name: str, identity: str | None) -> _Known | None:
        if identity is not None:
            return self._known.get(identity)
        if inbound.dup and inbound.packet_id is not None:
            # Without an identity only its packet names it (contract, section 5).
            came, payload, known = self._packets.get(inbound.packet_id, ("", b"", None))
            if (came, payload) == (name, inbound.payload):
                return known
        return None

    def is_stale(self, sender: str, seq: int) -> bool:
        """Tell whether the sender's command is not newer than its newest one; if it is, it becomes that."""
        if seq <= self._senders.get(sender, -1):
            return True
        self._senders[sender] = seq
        self._book.write(_SENDER, sender, seq)
        return False

    def touch(self) -> None:
        """Have a transaction made, with what the outbox has for it."""
        self._book.write("SELECT 1")

    def hold(self, packet_id: int) -> bool:
        """Note that a packet was taken at QoS 2; tell whether it is the first time (MQTT 5 section 4.3.3)."""
        if packet_id in self._held:
            return False
        self._held.add(packet_id)
        self._book.write("INSERT INTO held (packet_id) VALUES (?)", packet_id)
        return True

    def release(self, packet_id: int) -> None:
        """Note that the packet will not come again."""
        if packet_id in self._held:
            self._held.discard(packet_id)
            self._book.write("DELETE FROM held WHERE packet_id = ?", packet_id)

    def new_session(self) -> None:
        """Forget what packets of the last session were."""
        if self._packets:
            self._packets.clear()
            self._book.write("UPDATE command SET packet_id = NULL WHERE packet_id IS NOT NULL")
        if self._held:
            self._held.clear()
            self._book.write("DELETE FROM held")

    # On the way.

    def waiting(self) -> Iterator[Entry]:
        """Iterate over what waits to be run, oldest first; what an earlier process was running is among it."""
        for entry in list(self._open.values()):
            if entry.standing is Standing.WAITING or entry.is_old:
                yield entry

    def start(self, entry: Entry) -> None:
        """Note that the command is being run. It may be run once that is `written`."""
        entry.standing, entry.is_old = Standing.RUNNING, False
        self._stand(entry, Standing.RUNNING)
        self._book.write("UPDATE command SET state = 1 WHERE number = ?", entry.number)

    def finish(self, entry: Entry, result: bytes) -> None:
        """Note that the command is done. Its result, JSON text, must go into the outbox before anything is awaited."""
        entry.standing = Standing.DONE
        self._stand(entry, Standing.DONE)
        del self._open[entry.number]
        self._book.write("UPDATE command SET state = 2, result = ? WHERE number = ?", result, entry.number)

    def _stand(self, entry: Entry, standing: Standing) -> None:
        if entry.identity is not None:
            self._known[entry.identity].standing = standing

    def entry(self, number: int) -> Entry | None:
        """Return the command with this number if it is not done; once it is, `result` has its result."""
        return self._open.get(number)

    async def result(self, number: int) -> bytes | None:
        """Return the result of a command that is done and remembered. Raises StorageError."""
        for (result,) in await self._database.rows("SELECT result FROM command WHERE number = ?", (number,)):
            return bytes(result) if result is not None else None
        return None

    def _forget(self, now_ts: int) -> None:
        """Forget, now and then, what was done long ago, and the oldest where there is too much of it."""
        is_time = not 0 <= now_ts - self._forgotten_ts < _FORGET_EVERY or self._number % _FORGET_AFTER == 0
        if len(self._known) < _MOST_REMEMBERED and not is_time:
            return
        self._forgotten_ts = now_ts
        surplus = len(self._known) - _MOST_REMEMBERED * 9 // 10
        before = now_ts - int(self._remember * 1000)
        done = [(identity, one) for identity, one in self._known.items() if one.standing is Standing.DONE]
        for place, (identity, known) in enumerate(done):
            if place < surplus or known.received_ts < before:
                self._book.write("DELETE FROM command WHERE identity = ?", identity)
                del self._known[identity]
        self._book.write(
            "DELETE FROM command WHERE identity IS NULL AND state = 2 AND (received_ts < ? OR number < ?)",
            before,
            self._number - _MOST_REMEMBERED,
        )


_INSERT = (
    "INSERT INTO command (number, identity, name, packet_id, received_ts, expires_ts, payload, response_topic,"
    " correlation_data, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_SENDER = "INSERT INTO sender (name, seq) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET seq = excluded.seq"

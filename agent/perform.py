"""The way of a command from the inbox to its result: whether it may be run, running it, and answering."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from agent import clock, encode, requests
from agent.model import Inbound, Outcome, Record, Status
from agent.topics import RESULT, Topics

log = logging.getLogger(__name__)

_TELL_AFTER = 1.0
_LATE = 5.0


class Entry(Protocol):
    """A command that was taken in and is not done."""

    number: int
    identity: str | None
    name: str
    payload: bytes
    response_topic: str | None
    correlation_data: bytes | None
    expires_ts: int | None
    is_old: bool

    @property
    def is_running(self) -> bool: ...  # noqa: D102


class Inbox(Protocol):
    """What performing needs of the inbox."""

    news: asyncio.Event

    def waiting(self) -> Iterable[Entry]: ...  # noqa: D102
    def start(self, entry: Any) -> None: ...  # noqa: D102, ANN401  the inbox's own Entry
    def finish(self, entry: Any, result: bytes) -> None: ...  # noqa: D102, ANN401
    async def result(self, number: int) -> bytes | None: ...  # noqa: D102


class Outbox(Protocol):
    """What performing needs of the outbox."""

    epoch: int

    def accept_document(self, stream: str, text: bytes, *, ts: int, now: float) -> Record: ...  # noqa: D102


class Command(Protocol):
    """Something that can be run.

    An idempotent one is run again if the process died while it ran. An urgent one does not wait for the state to be
    resynchronised.
    """

    @property
    def is_idempotent(self) -> bool: ...  # noqa: D102
    @property
    def is_urgent(self) -> bool: ...  # noqa: D102
    def refusal(self, args: Mapping[str, Any]) -> str: ...  # noqa: D102
    async def run(self, args: Mapping[str, Any], *, command_id: str) -> Outcome: ...  # noqa: D102


class Gate(Protocol):
    """Whether the state has been resynchronised; `refusal` tells why commands are turned away meanwhile."""

    @property
    def is_open(self) -> bool: ...  # noqa: D102
    @property
    def refusal(self) -> str: ...  # noqa: D102


class Replies:
    """Results, on their way out through the outbox."""

    def __init__(self, inbox: Inbox, outbox: Outbox, *, topics: Topics) -> None:
        self._inbox = inbox
        self._outbox = outbox
        self._topics = topics

    def refuse(self, inbound: Inbound, name: str, told_id: str | None, outcome: Outcome) -> None:
        """Answer what was never taken in."""
        body = self._body(told_id or "", name, outcome)
        self._send(body, name, inbound.response_topic, inbound.correlation_data)

    def tell(self, entry: Entry, outcome: Outcome) -> None:
        """Tell how a command goes on."""
        self._send(self._body(self.id_of(entry), entry.name, outcome), entry.name, *_to(entry))

    def end(self, entry: Entry, outcome: Outcome) -> None:
        """Tell how a command ended, and remember that: both are in one transaction."""
        body = self._body(self.id_of(entry), entry.name, outcome)
        self._inbox.finish(entry, body)
        self._send(body, entry.name, *_to(entry))

    async def again(self, number: int, inbound: Inbound) -> None:
        """Tell the result of a command that came again and is done. Raises StorageError."""
        body = await self._inbox.result(number)
        if body is not None:
            name = inbound.topic.rpartition("/")[2]
            self._send(body, name, inbound.response_topic, inbound.correlation_data)

    def id_of(self, entry: Entry) -> str:
        """Return how the command is called in its results."""
        if entry.identity is None:
            return f"{entry.name}-{entry.number}"
        kind, _, name = entry.identity.partition(" ")
        if kind == "id":
            return name
        return requests.told_id_of(bytes.fromhex(name))

    def _body(self, told_id: str, name: str, outcome: Outcome) -> bytes:
        body: dict[str, object] = {"id": told_id, "name": name, "status": outcome.status.value}
        if outcome.result:
            body["result"] = outcome.result
        if outcome.reason:
            body["reason"] = outcome.reason
        return encode.document({**body, "ts": clock.unix_ms(), "epoch": self._outbox.epoch})

    def _send(self, body: bytes, name: str, response_topic: str | None, correlation_data: bytes | None) -> None:
        letter = encode.letter(
            body,
            topic=response_topic or self._topics.result(name),
            correlation_data=correlation_data,
        )
        self._outbox.accept_document(RESULT, letter, ts=clock.unix_ms(), now=clock.monotonic())


def _to(entry: Entry) -> tuple[str | None, bytes | None]:
    return entry.response_topic, entry.correlation_data


class Performer:
    """Runs the inbox's commands, `max_running` at once, in their order."""

    def __init__(
        self,
        inbox: Inbox,
        replies: Replies,
        *,
        written: Callable[[], asyncio.Future[None]],
        find: Callable[[str], Command | None],
        gate: Gate,
        max_running: int,
    ) -> None:
        self._inbox = inbox
        self._replies = replies
        self._written = written
        self._find = find
        self._gate = gate
        self._max_running = max_running
        self._running: set[int] = set()
        self._late: dict[int, float] = {}
        """Until when commands wait that nobody performs yet: a local program may be about to connect."""

    async def perform(self) -> None:
        """Run what waits, until cancelled; what is running then is ended, and told as interrupted at the next start."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._inbox.news.wait()
                self._inbox.news.clear()
                for entry in self._inbox.waiting():
                    if entry.number not in self._running and self._may_begin(entry):
                        self._running.add(entry.number)
                        group.create_task(self._one(entry), name=f"command {entry.name}")

    def _may_begin(self, entry: Entry) -> bool:
        command = self._find(entry.name)
        if _is_interrupted(entry, command):
            return True
        if command is None and self._waits_for_a_program(entry):
            return False
        if command is not None and command.is_urgent:
            return True
        return len(self._running) < self._max_running and (self._gate.is_open or bool(self._gate.refusal))

    def _waits_for_a_program(self, entry: Entry) -> bool:
        loop = asyncio.get_running_loop()
        until = self._late.get(entry.number)
        if until is None:
            until = self._late[entry.number] = loop.time() + _LATE
            loop.call_at(until, self._inbox.news.set)
        return loop.time() < until

    async def _one(self, entry: Entry) -> None:
        try:
            outcome = self._turned_away(entry)
            if outcome is None:
                outcome = await self._run(entry)
            log.info("command %s (%s): %s", entry.name, self._replies.id_of(entry), _told(outcome))
            self._replies.end(entry, outcome)
        finally:
            self._running.discard(entry.number)
            self._late.pop(entry.number, None)
            self._inbox.news.set()

    def _turned_away(self, entry: Entry) -> Outcome | None:
        """Return why the command is not run; None: it is."""
        command = self._find(entry.name)
        if _is_interrupted(entry, command):
            return Outcome(status=Status.INTERRUPTED, reason="the agent ended while it ran")
        if command is None:
            return Outcome(status=Status.REJECTED, reason=f"there is no command {entry.name}")
        if entry.expires_ts is not None and clock.unix_ms() >= entry.expires_ts:
            return Outcome(status=Status.EXPIRED, reason="it is too old")
        if not command.is_urgent and not self._gate.is_open:
            return Outcome(status=Status.REJECTED, reason=self._gate.refusal)
        if why := command.refusal(requests.parse(entry.payload).args):
            return Outcome(status=Status.REJECTED, reason=why)
        return None

    async def _run(self, entry: Entry) -> Outcome:
        command = self._find(entry.name)
        assert command is not None
        self._inbox.start(entry)
        await self._written()
        args = requests.parse(entry.payload).args
        async with asyncio.TaskGroup() as group:
            running = group.create_task(command.run(args, command_id=self._replies.id_of(entry)))
            await asyncio.wait([running], timeout=_TELL_AFTER)
            if not running.done():
                self._replies.tell(entry, Outcome(status=Status.ACCEPTED))
        return running.result()


def _is_interrupted(entry: Entry, command: Command | None) -> bool:
    """Tell whether an earlier process began the command, and it must not be begun again."""
    return entry.is_running and (command is None or not command.is_idempotent)


def _told(outcome: Outcome) -> str:
    return f"{outcome.status.value}: {outcome.reason}" if outcome.reason else outcome.status.value

"""What comes from afar: commands, the state, and how both are kept on the disk."""

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from agent import __version__, clock
from agent.commands.builtin import builtins
from agent.commands.local import Local
from agent.commands.table import described
from agent.link.session import Session
from agent.model import Confirm, Delivery, Sample
from agent.perform import Command, Performer, Replies
from agent.receive import Receiver
from agent.resync import Gate, OnTimeout, Resync
from agent.settings import Settings, seconds
from agent.shadow import Desired, Path, Reported
from agent.store import documents, unconfirmed
from agent.store.book import Book
from agent.store.database import Database
from agent.store.inbox import Inbox
from agent.store.outbox import Outbox
from agent.topics import Topics

log = logging.getLogger(__name__)

_LOG_LEVELS = ("debug", "info", "warning", "error")
_MOST_RANGES = 1_000
_SHORTEST, _LONGEST = 0.05, 86_400.0


class Control:
    """Inbox, state and what joins them. `book` is written with the outbox.

    `set_interval` changes how often a stream's source is read, in seconds; it raises ValueError for no such stream.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        outbox: Outbox,
        *,
        set_interval: Callable[[str, float], None],
    ) -> None:
        topics = Topics(settings.topics.prefix)
        self.book = Book(outbox.stir.set)
        self._settings = settings
        self._database = database
        self._outbox = outbox
        self._set_interval = set_interval
        self._confirmed: dict[str, list[list[int]]] = {}
        self._news_of_ranges = asyncio.Event()
        self._states = frozenset(name for name, table in settings.streams.items() if table.state)
        self._inbox = Inbox(database, self.book, remember=settings.commands.remember)
        self._gate = Gate(self._inbox.news.set)
        self._reported = Reported()
        self._desired = Desired(
            allowed=settings.resync.remote,
            setters={
                "streams.*.interval": self._interval,
                "streams.*.delivery": self._delivery,
                "log.level": _log_level,
            },
        )
        self._resync = Resync(
            device_id=settings.device_id,
            epoch=outbox.epoch,
            topics=topics,
            reported=self._reported,
            desired=self._desired,
            gate=self._gate,
            keep_reported=self._keep_reported,
            keep_desired=self._keep_desired,
            sent=self._sent,
            received=self._received,
            before_asking=self._mark_asked if settings.outbox.confirm is Confirm.CONTROLLER else None,
            every=settings.resync.every,
            timeout=settings.resync.timeout,
            on_timeout=OnTimeout(settings.resync.on_timeout),
            qos=settings.commands.qos,
        )
        own = builtins(self._resync, self._flush)
        programs = {command.name: command for command in settings.commands.commands}
        self._commands: dict[str, Command] = {**programs, **own}
        self._described = described({name: command.arguments for name, command in (programs | own).items()})
        self.local = Local(self._commands.__contains__, changed=self._offered)
        replies = Replies(self._inbox, outbox, topics=topics)
        self._receiver = Receiver(
            self._inbox,
            replies,
            written=self.book.written,
            topics=topics,
            desired=self._resync.take,
            max_age=settings.commands.max_age,
            is_synced=clock.is_synced,
        )
        self._performer = Performer(
            self._inbox,
            replies,
            written=self.book.written,
            find=self._find,
            gate=self._gate,
            max_running=settings.commands.max_running,
        )

    async def load(self) -> None:
        """Read what earlier processes left, and apply the desired state that was applied last. Raises StorageError."""
        await self._inbox.load()
        kept = await documents.load(self._database)
        if self._settings.outbox.confirm is Confirm.CONTROLLER:
            self.book.write(unconfirmed.FORGET_ASKING)
        if "reported" in kept:
            self._reported.version, self._reported.parts = kept["reported"]
        if "desired" in kept:
            self._resync.desire(*kept["desired"])
        for stale in self._reported.parts.keys() - self._states - {"agent", "streams", "commands", "desired"}:
            self._resync.report(stale, None)
        self._report_agent()

    @property
    def resync(self) -> str:
        """How the last resynchronisation ended."""
        return self._resync.outcome

    def seen(self, sample: Sample) -> None:
        """Look at a sample that was accepted: it may be a part of the state."""
        if sample.stream in self._states:
            self._resync.report(sample.stream, dict(sample.fields))

    async def perform(self) -> None:
        """Run commands, until cancelled. Raises StorageError."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._performer.perform(), name="perform")
            group.create_task(self._confirm(), name="confirm")

    async def over(self, session: Session, connection: int) -> None:
        """Receive and resynchronise over this session, until cancelled. Raises LinkDownError and StorageError."""
        if not session.limits.session_present:
            self._inbox.new_session()
        self._report_agent()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._receiver.over(session), name="receive")
            group.create_task(self._resync.over(session, connection), name="resync")

    def _find(self, name: str) -> Command | None:
        return self._commands.get(name) or self.local.find(name)

    def _offered(self) -> None:
        self._inbox.news.set()

    # The state.

    def _report_agent(self) -> None:
        self._resync.report(
            "agent",
            {
                "version": __version__,
                "settings": _fingerprint(self._settings),
                "clock": "synced" if clock.is_synced() else "unsynced",
            },
        )
        self._resync.report("commands", self._described)

    def _keep_reported(self) -> asyncio.Future[None]:
        documents.put(self.book, "reported", self._reported.version, self._reported.parts)
        return self.book.written()

    def _keep_desired(self) -> asyncio.Future[None]:
        documents.put(self.book, "desired", self._desired.version, self._desired.document)
        return self.book.written()

    # What may be set from afar.

    def _interval(self, path: Path, value: object) -> None:
        interval = seconds(value)
        if not _SHORTEST <= interval <= _LONGEST:
            raise ValueError(f"must be {_SHORTEST:g} to {_LONGEST:g} seconds")
        self._set_interval(path[1], interval)

    def _delivery(self, path: Path, value: object) -> None:
        try:
            delivery = Delivery(str(value))
        except ValueError:
            raise ValueError(f"must be one of {', '.join(Delivery)}") from None
        self._outbox.channels().redeliver(path[1], delivery)

    # What the controller has.

    def _sent(self) -> Iterator[tuple[str, int, int]]:
        for channel in self._outbox.channels():
            if channel.sent > (0, 0):
                yield channel.stream.name, *channel.sent

    def _mark_asked(self) -> asyncio.Future[None]:
        self.book.write(unconfirmed.ASK)
        return self.book.written()

    def _received(self, said: Mapping[str, Any]) -> None:
        for stream, ranges in said.items():
            if (known := _ranges(ranges)) is None:
                log.warning(
                    "the controller's ranges of %.80s are left alone: they are no lists of three numbers", stream
                )
            else:
                self._confirmed[stream] = known
        self._news_of_ranges.set()

    async def _confirm(self) -> None:
        """End the records of which the controller says that it has them."""
        while True:
            await self._news_of_ranges.wait()
            self._news_of_ranges.clear()
            while self._confirmed:
                await self._outbox.confirm(*self._confirmed.popitem())

    async def _flush(self) -> Mapping[str, object]:
        self._outbox.write_early()
        self.book.write("SELECT 1")  # what is in the same transaction as this is written, too
        await self.book.written()
        return {"waiting": self._outbox.waiting}


def _ranges(said: object) -> list[list[int]] | None:
    """Return ranges as they were said, each of an epoch, a first and a last number; None: they are none."""
    if not isinstance(said, list) or len(said) > _MOST_RANGES:
        return None
    for one in said:
        if not isinstance(one, list) or len(one) != 3 or not all(type(number) is int for number in one):  # noqa: PLR2004
            return None
    return said


def _log_level(_path: Path, value: object) -> None:
    if value not in _LOG_LEVELS:
        raise ValueError(f"must be one of {', '.join(_LOG_LEVELS)}")
    logging.getLogger().setLevel(str(value).upper())


def _fingerprint(settings: Settings) -> str:
    """Return a name for these settings: two robots with the same one have the same settings."""
    told = json.dumps(settings.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:12]

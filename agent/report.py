"""What the agent tells of itself: the connection status, and its figures."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Protocol

from agent import __version__, clock, encode
from agent.model import Message, Stream
from agent.topics import Topics

_FIRST_AFTER = 2.0


class Counts(Protocol):
    """A stream's counts over the life of the outbox, in records."""

    accepted: int
    delivered: int
    quarantined: int
    unconfirmed: int
    waiting_bytes: int


class Channel(Protocol):
    """What a report needs of a stream; `counts` are over the life of the outbox."""

    stream: Stream
    seq: int
    dropped: int

    @property
    def counts(self) -> Counts: ...  # noqa: D102
    @property
    def waiting(self) -> int: ...  # noqa: D102


class Store(Protocol):
    """What a report needs of the outbox."""

    epoch: int

    @property
    def waiting(self) -> int: ...  # noqa: D102
    def channels(self) -> Iterable[Channel]: ...  # noqa: D102


class Link(Protocol):
    """What a report needs of the connection to the broker."""

    @property
    def state(self) -> Enum: ...  # noqa: D102
    @property
    def since(self) -> float: ...  # noqa: D102
    @property
    def number(self) -> int: ...  # noqa: D102
    @property
    def cause(self) -> str: ...  # noqa: D102
    def figures(self) -> dict[str, object]: ...  # noqa: D102


def figures(store: Store, link: Link, *, resync: str) -> dict[str, object]:
    """Return the agent's figures: what `health` and `roamd status` show. Times are in seconds, sizes in bytes."""
    streams = {
        channel.stream.name: {
            "seq": channel.seq,
            "accepted": channel.counts.accepted,
            "delivered": channel.counts.delivered,
            "waiting": channel.waiting,
            "unconfirmed": channel.counts.unconfirmed,
            "quarantined": channel.counts.quarantined,
            "dropped": channel.dropped,
        }
        for channel in store.channels()
    }
    return {
        "ts": clock.unix_ms(),
        "version": __version__,
        "epoch": store.epoch,
        "link": {
            "state": link.state.value,
            "for": round(clock.monotonic() - link.since, 1),
            "connection": link.number,
            "cause": link.cause,
            **link.figures(),
        },
        "outbox": {
            "waiting": store.waiting,
            "waiting_bytes": sum(channel.counts.waiting_bytes for channel in store.channels()),
        },
        "resync": resync,
        "streams": streams,
    }


async def report(
    figures: Callable[[], dict[str, object]], *, to: Topics, interval: float, publish: Callable[[Message], None]
) -> None:
    """Publish the figures every `interval` seconds while the link is up, for ever; records have the first word."""
    await asyncio.sleep(min(interval, _FIRST_AFTER))
    while True:
        publish(Message(topic=to.health, payload=encode.document(figures()), qos=0))
        await asyncio.sleep(interval)


def online(topics: Topics, *, epoch: int, connection: int) -> Message:
    """Return the status of a link that is up."""
    return _status(
        topics,
        {
            "status": "online",
            "epoch": epoch,
            "connection": connection,
            "ts": clock.unix_ms(),
            "version": __version__,
        },
    )


def offline(topics: Topics, *, epoch: int, connection: int, reason: str) -> Message:
    """Return the status after a clean stop."""
    return _status(
        topics,
        {
            "status": "offline",
            "epoch": epoch,
            "connection": connection,
            "ts": clock.unix_ms(),
            "version": __version__,
            "reason": reason,
        },
    )


def will(topics: Topics, *, epoch: int, connection: int) -> Message:
    """Return the status that the server publishes when the link is lost."""
    return _status(topics, {"status": "lost", "epoch": epoch, "connection": connection})


def _status(topics: Topics, values: Mapping[str, object]) -> Message:
    return Message(topic=topics.status, payload=encode.document(values), qos=1, retain=True)

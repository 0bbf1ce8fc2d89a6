"""The way in from the broker: what comes is taken, made durable, and acknowledged in its order."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from agent import clock, requests
from agent.model import Inbound, Outcome, Released, Status
from agent.requests import Request, RequestError
from agent.topics import Topics, is_name

log = logging.getLogger(__name__)

_MOST_TOGETHER = 100


class Entry(Protocol):
    """A command that was taken in and is not done."""

    number: int
    response_topic: str | None
    correlation_data: bytes | None


class Inbox(Protocol):
    """What receiving needs of the inbox."""

    news: asyncio.Event

    def accept(  # noqa: D102
        self, inbound: Inbound, *, name: str, identity: str | None, expires_ts: int | None, now_ts: int
    ) -> Entry | int: ...
    def entry(self, number: int) -> Entry | None: ...  # noqa: D102
    def is_stale(self, sender: str, seq: int) -> bool: ...  # noqa: D102
    def touch(self) -> None: ...  # noqa: D102
    def hold(self, packet_id: int) -> bool: ...  # noqa: D102
    def release(self, packet_id: int) -> None: ...  # noqa: D102


class Link(Protocol):
    """What receiving needs of a connection to the server."""

    inbound: asyncio.Queue[Inbound | Released]

    def acknowledge(self, inbound: Inbound | Released) -> None: ...  # noqa: D102


class Replies(Protocol):
    """Who answers commands."""

    def refuse(self, inbound: Inbound, name: str, told_id: str | None, outcome: Outcome) -> None: ...  # noqa: D102
    def end(self, entry: Any, outcome: Outcome) -> None: ...  # noqa: D102, ANN401  the inbox's own Entry
    async def again(self, number: int, inbound: Inbound) -> None: ...  # noqa: D102


class Receiver:
    """Takes commands into the inbox and hands desired states on. `max_age` is in seconds, 0 for no limit."""

    def __init__(
        self,
        inbox: Inbox,
        replies: Replies,
        *,
        written: Callable[[], asyncio.Future[None]],
        topics: Topics,
        desired: Callable[[Inbound], None],
        max_age: float,
        is_synced: Callable[[], bool],
    ) -> None:
        self._inbox = inbox
        self._replies = replies
        self._written = written
        self._topics = topics
        self._desired = desired
        self._max_age = max_age
        self._is_synced = is_synced
        self._again: list[tuple[int, Inbound]] = []

    async def over(self, link: Link) -> None:
        """Take what comes over this link, until cancelled. Raises StorageError."""
        while True:
            arrivals = [await link.inbound.get()]
            while len(arrivals) < _MOST_TOGETHER and not link.inbound.empty():
                arrivals.append(link.inbound.get_nowait())
            for arrival in arrivals:
                self._take(arrival)
            # One transaction for all of them; MQTT 5 section 4.6 wants the answers in the order of arrival.
            await self._written()
            for arrival in arrivals:
                link.acknowledge(arrival)
            self._inbox.news.set()
            again, self._again = self._again, []
            for number, inbound in again:
                await self._replies.again(number, inbound)

    def _take(self, arrival: Inbound | Released) -> None:
        if isinstance(arrival, Released):
            self._inbox.release(arrival.packet_id)
            return
        if arrival.qos == 2 and arrival.packet_id is not None and not self._inbox.hold(arrival.packet_id):  # noqa: PLR2004
            return  # it was taken, and its PUBREC was lost
        if arrival.topic == self._topics.desired:
            self._desired(arrival)
        elif (name := self._topics.command(arrival.topic)) is not None:
            self._command(arrival, name)
        else:
            log.warning("a message on %s is left alone: nobody asked for it", arrival.topic)

    def _command(self, inbound: Inbound, name: str) -> None:
        inbound = _answerable(inbound)
        try:
            request = requests.parse(inbound.payload)
        except RequestError as exc:
            self._refuse(inbound, name, None, str(exc))
            return
        if inbound.retain:
            self._refuse(inbound, name, request, "it was retained: a command that is kept would be run at each connect")
            return
        if inbound.response_topic is None and request.response_topic is not None:
            correlation_data = inbound.correlation_data or request.correlation_data
            inbound = _answerable(
                replace(inbound, response_topic=request.response_topic, correlation_data=correlation_data)
            )
        now_ts = clock.unix_ms()
        entry = self._inbox.accept(
            inbound,
            name=name,
            identity=requests.identity(inbound, request),
            expires_ts=requests.expiry(
                inbound, request, now_ts=now_ts, max_age=self._max_age, is_synced=self._is_synced()
            ),
            now_ts=now_ts,
        )
        if isinstance(entry, int):
            self._known(entry, inbound)
        elif (
            request.sender is not None and request.seq is not None and self._inbox.is_stale(request.sender, request.seq)
        ):
            self._replies.end(entry, Outcome(status=Status.REJECTED, reason="stale sequence"))

    def _known(self, number: int, inbound: Inbound) -> None:
        log.info("command %d came again: it is not run again", number)
        entry = self._inbox.entry(number)
        if entry is None:
            self._again.append((number, inbound))
        else:  # whoever asks again waits there for the result
            entry.response_topic, entry.correlation_data = inbound.response_topic, inbound.correlation_data

    def _refuse(self, inbound: Inbound, name: str, request: Request | None, why: str) -> None:
        log.warning("command %s is rejected: %s", name, why)
        told_id = requests.told_id(inbound, request)
        self._inbox.touch()  # so that the refusal is durable before PUBACK, too
        self._replies.refuse(inbound, name, told_id, Outcome(status=Status.REJECTED, reason=why))


def _answerable(inbound: Inbound) -> Inbound:
    """Return a command whose result can be published: what is no topic is none, and `result/{name}` stands for it.

    A broker closes the connection upon such a topic, and would at each connect: the result waits in the outbox.
    """
    if inbound.response_topic is None or is_name(inbound.response_topic):
        return inbound
    log.warning("%s: nothing can be published on its response topic %.80r", inbound.topic, inbound.response_topic)
    return replace(inbound, response_topic=None)

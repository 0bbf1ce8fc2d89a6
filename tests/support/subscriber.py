"""mosquitto_sub as the one who receives, and how its messages are read as records."""

import json
import zlib
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self, TypeVar

from tests.support.child import Child, ChildEndedError, program
from tests.support.mosquitto import PACKAGE

T = TypeVar("T")
MARK = "#"
"""Begins the line of a message; what `-d` tells begins with `Client` or `Subscribed`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message as mosquitto_sub got it. `retain` marks a stored one, sent because of a new subscription.

    `properties` are as mosquitto_sub prints them (`content-type`, `message-expiry-interval`, `user-properties`).
    """

    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: Mapping[str, Any]

    def json(self) -> Any:  # noqa: ANN401
        return json.loads(self.payload)


class Subscriber:
    """mosquitto_sub with a session that outlives its connection: it comes back by itself after a second.

    With each return it subscribes again, and gets the retained messages again.
    """

    def __init__(
        self,
        port: int,
        *,
        topic: str = "device/#",
        qos: int = 1,
        client_id: str = "subscriber",
        session_expiry: int = 3600,
    ) -> None:
        self.messages: list[Message] = []
        """In the order of their arrival, over all its lives."""
        self.subscriptions = 0
        """How often its subscription was granted."""
        self._port = port
        self._topic = topic
        self._qos = qos
        self._client_id = client_id
        self._session_expiry = session_expiry
        self._child: Child | None = None

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._leave()

    async def _leave(self) -> None:
        if self._child is not None:
            await self._child.end()

    async def start(self) -> None:
        """Start it, and return once its subscription stands."""
        argv = (
            # Into a pipe it would write whole blocks, and keep what `-d` tells for long.
            program("stdbuf", package="coreutils"), "-oL",
            program("mosquitto_sub", package=PACKAGE), "-h", "127.0.0.1", "-p", str(self._port), "-V", "5",
            "-t", self._topic, "-q", str(self._qos), "-i", self._client_id,
            "-c", "-x", str(self._session_expiry), "-d", "-F", f"{MARK}%x %j",
        )  # fmt: skip
        before = self.subscriptions
        self._child = await Child.spawn(argv, name=f"mosquitto_sub {self._client_id}", on_line=self._take)
        await self.wait_subscribed(before + 1)

    async def stop(self) -> None:
        """Cut it off; its session stays with the broker for `session_expiry` seconds.

        What it told and had not acknowledged yet will come again. (At SIGTERM it would send DISCONNECT from within its
        signal handler, and may lock itself up there.)
        """
        assert self._child is not None
        await self._child.end()

    def _take(self, line: str) -> None:
        if line.startswith("Subscribed (mid") and int(line.rpartition(" ")[2]) < 0x80:
            self.subscriptions += 1
        if not line.startswith(MARK):
            return
        payload, _, rest = line[1:].partition(" ")
        told = json.loads(rest, strict=False)
        self.messages.append(
            Message(
                topic=told["topic"],
                payload=bytes.fromhex(payload),
                qos=told["qos"],
                retain=told["retain"] == 1,
                properties=told.get("properties", {}),
            )
        )

    def wait_for(self, condition: Callable[[list[Message]], T], timeout: float = 30.0) -> Coroutine[Any, Any, T]:
        """Wait until `condition(messages)` is true, and return what it returned."""
        return self._until(lambda: condition(self.messages), timeout)

    def wait_subscribed(self, times: int, timeout: float = 30.0) -> Coroutine[Any, Any, bool]:
        """Wait until the subscription was granted for the `times`-th time: 2 after the first reconnect."""
        return self._until(lambda: self.subscriptions >= times, timeout)

    async def _until(self, condition: Callable[[], T], within: float) -> T:
        assert self._child is not None
        child = self._child

        def seen() -> T:
            value = condition()
            if not value and not child.running:
                raise ChildEndedError(child.story())
            return value

        return await child.bell.until(
            seen, within=within, story=lambda: f"{len(self.messages)} messages: {child.story()}"
        )


class Arrived(Protocol):
    """What has a topic and a payload: a `Message`, or what the scripted broker received."""

    @property
    def topic(self) -> str: ...
    @property
    def payload(self) -> bytes: ...


class Row(NamedTuple):
    stream: str
    epoch: int
    seq: int
    payload: dict[str, Any]


def records(messages: Iterable[Arrived]) -> list[Row]:
    """All records in the order of their arrival: of streams (fresh, batches, backfill, compressed) and of events."""
    return [
        Row(stream, record["epoch"], record["seq"], record)
        for message in messages
        if (stream := stream_of(message.topic)) is not None
        for record in _payloads(message)
    ]


def stream_of(topic: str) -> str | None:
    """The stream of a telemetry topic, `event/NAME` for an event's, None for all others."""
    _, telemetry, stream = topic.partition("/telemetry/")
    if telemetry:
        return stream.removesuffix("/backfill.z").removesuffix("/backfill")
    _, event, name = topic.partition("/event/")
    return f"event/{name}" if event else None


def _payloads(message: Arrived) -> list[dict[str, Any]]:
    raw = zlib.decompress(message.payload) if message.topic.endswith("/backfill.z") else message.payload
    body = json.loads(raw)
    return body if isinstance(body, list) else [body]

"""Right after every (re)connect: subscriptions, the reported state, and the desired one (contract, section 6)."""

import asyncio
import json
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Protocol

from agent import clock, encode, reasons
from agent.arguments import is_plain
from agent.model import Inbound, Limits, Message, Server
from agent.shadow import Desired, Reported
from agent.topics import Topics

log = logging.getLogger(__name__)

_TIMED_OUT = "timed out"
_FIRST_WAIT = 1.0
_SUBSCRIBE_AGAIN, _SUBSCRIBE_AGAIN_CAP = 30.0, 600.0
_LARGEST_REQUEST = 2_000
_CORRELATION_BYTES = 12
_HIGHEST_VERSION = 2**63 - 1


class OnTimeout(Enum):
    """What becomes of commands when no reply came in time."""

    PROCEED = "proceed"
    REJECT = "reject"


class Link(Protocol):
    """What resynchronising needs of a connection to the server."""

    limits: Limits
    server: Server

    async def subscribe(self, *filters: str, qos: int) -> Sequence[int]: ...  # noqa: D102
    async def publish(self, message: Message) -> int: ...  # noqa: D102


class Gate:
    """Whether commands may be run: `changed` is called when that is another matter than before."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self.is_open = False
        self.refusal = ""

    def open(self) -> None:
        """Let commands through."""
        self._set(is_open=True, refusal="")

    def close(self) -> None:
        """Have commands wait."""
        self._set(is_open=False, refusal="")

    def reject(self, why: str) -> None:
        """Have commands turned away."""
        self._set(is_open=False, refusal=why)

    def _set(self, *, is_open: bool, refusal: str) -> None:
        self.is_open, self.refusal = is_open, refusal
        self._changed()


class Resync:
    """The state, kept and told.

    `keep_reported` and `keep_desired` make a version durable, and are awaited before it is told. `sent` gives the
    highest epoch and number of each stream that the broker has taken, the newest first; `received` is told what the
    controller says that it has. With `before_asking`, which is awaited then, it is asked `every` so often besides.
    `outcome` is for the figures. Times are in seconds.
    """

    def __init__(
        self,
        *,
        device_id: str,
        epoch: int,
        topics: Topics,
        reported: Reported,
        desired: Desired,
        gate: Gate,
        keep_reported: Callable[[], asyncio.Future[None]],
        keep_desired: Callable[[], asyncio.Future[None]],
        sent: Callable[[], Iterable[tuple[str, int, int]]],
        received: Callable[[Mapping[str, Any]], None],
        before_asking: Callable[[], asyncio.Future[None]] | None,
        every: float,
        timeout: float,
        on_timeout: OnTimeout,
        qos: int,
    ) -> None:
        self.outcome = "never"
        self._device_id = device_id
        self._epoch = epoch
        self._topics = topics
        self._reported = reported
        self._desired = desired
        self._gate = gate
        self._keep_reported = keep_reported
        self._keep_desired = keep_desired
        self._sent = sent
        self._received = received
        self._before_asking = before_asking
        self._every = every
        self._timeout = timeout
        self._on_timeout = on_timeout
        self._qos = qos
        self._subscribed: Server | None = None
        self._published: tuple[Server, int] | None = None
        self._kept: tuple[int, asyncio.Future[None]] | None = None
        self._correlation = b""
        self._replied = asyncio.Event()
        self._stir = asyncio.Event()

    # The state.

    def report(self, name: str, part: object) -> None:
        """Report a part of the state; what is new is told soon."""
        if self._reported.put(name, part):
            self._stir.set()

    def document(self) -> dict[str, object]:
        """Return the state document."""
        return {
            "version": self._reported.version,
            "epoch": self._epoch,
            "ts": clock.unix_ms(),
            "reported": self._reported.parts,
            "desired_version": self._desired.version,
        }

    def desire(self, version: object, document: object) -> str:
        """Apply a desired state; return what is wrong with it, empty for nothing."""
        if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= _HIGHEST_VERSION:
            return "version must be a whole number of 1 or more, in 63 bits"
        if not isinstance(document, dict):
            return "desired must be an object"
        if not is_plain(document):
            return "desired has what is not finite, beyond 64 bits, too deep, NUL, or what is not UTF-8"
        if self._desired.apply(version, document):
            log.info("desired state %d is applied; refused: %s", version, self._desired.refused or "nothing")
            self._keep_desired()
            self.report("desired", self._desired.told())
        return ""

    # What comes on the topic `desired`.

    def take(self, inbound: Inbound) -> None:
        """Take a reply, or a push."""
        try:
            said = json.loads(inbound.payload)
        except (ValueError, RecursionError) as exc:
            log.warning("what came on %s is left alone: not JSON: %s", inbound.topic, exc)
            return
        if not isinstance(said, dict):
            log.warning("what came on %s is left alone: not an object", inbound.topic)
            return
        if "desired" in said and (why := self.desire(said.get("version"), said["desired"])):
            log.warning("what came on %s is left alone: %s", inbound.topic, why)
        if self._correlation and (inbound.correlation_data or _correlation_of(said)) == self._correlation:
            if isinstance(received := said.get("received"), dict):
                self._received(received)
            self._replied.set()
            if self.outcome == _TIMED_OUT:  # it comes late, but now both sides are at the same state
                self._let_through(is_reply=True)

    # Over a link.

    async def over(self, link: Link, connection: int) -> None:
        """Bring both sides to the same state, and keep them there until cancelled. Raises LinkDownError."""
        self._gate.close()
        self._correlation = b""  # an answer to what the last connection asked is none now
        async with asyncio.TaskGroup() as group:
            group.create_task(self._subscribe(link), name="subscribe")
            publishing = group.create_task(self._publish(link), name="state")
            await asyncio.sleep(0)  # SUBSCRIBE goes first: a server does things in their order
            self._let_through(is_reply=await self._ask(link, connection))
            while self._before_asking is not None:
                await asyncio.sleep(self._every)
                await self._ask(link, connection)
            await publishing

    async def _subscribe(self, link: Link) -> None:
        """Subscribe where the session does not know it yet; what is refused is tried again, more and more rarely."""
        if link.limits.session_present and self._subscribed == link.server:
            return
        wanted = {self._topics.desired: 1, self._topics.commands: self._qos}
        wait = _SUBSCRIBE_AGAIN
        while True:
            refused = {}
            for topic, qos in wanted.items():
                [code] = await link.subscribe(topic, qos=qos)
                if code >= reasons.GRANTED_BELOW:
                    refused[topic] = qos
                    text = "the broker refuses the subscription to %s: %s; again in %.0f s"
                    log.error(text, topic, reasons.describe(code), wait)
            if not refused:
                self._subscribed = link.server
                return
            wanted = refused
            await asyncio.sleep(wait)
            wait = min(2 * wait, _SUBSCRIBE_AGAIN_CAP)

    async def _publish(self, link: Link) -> None:
        """Publish the state when it has changed, and where the broker may have lost it."""
        if not link.limits.session_present:
            self._published = None
        while True:
            self._stir.clear()
            version = self._reported.version
            if self._published != (link.server, version):
                payload = encode.document(self.document())  # what is told is what is made durable
                await self._keep()
                code = await link.publish(Message(topic=self._topics.state, payload=payload, retain=True))
                if code >= reasons.GRANTED_BELOW:
                    log.error("the broker refuses the state: %s", reasons.describe(code))
                self._published = link.server, version
            await self._stir.wait()

    def told(self) -> dict[str, object]:
        """Return the state document to whoever asked: its version is written with the answer."""
        self._keep()
        return self.document()

    def _keep(self) -> asyncio.Future[None]:
        """Make the reported version durable: return what is done once it is."""
        if self._kept is None or self._kept[0] != self._reported.version:
            self._kept = self._reported.version, self._keep_reported()
        return asyncio.shield(self._kept[1])

    async def _ask(self, link: Link, connection: int) -> bool:
        """Ask for the desired state until there is a reply, or the time is over; tell which."""
        await self._keep()
        if self._before_asking is not None:
            await self._before_asking()
        self._correlation = secrets.token_hex(_CORRELATION_BYTES).encode()
        self._replied.clear()
        wait = _FIRST_WAIT
        try:
            async with asyncio.timeout(self._timeout):
                while not self._replied.is_set():
                    await link.publish(self._request(link, connection))
                    await _until(self._replied, asyncio.get_running_loop().time() + wait)
                    wait *= 2
        except TimeoutError:
            return False
        return True

    def _let_through(self, *, is_reply: bool) -> None:
        """Decide what becomes of the commands that wait."""
        self.outcome = "done" if is_reply else _TIMED_OUT
        log.info("resynchronising with the controller: %s", self.outcome)
        if is_reply or self._on_timeout is OnTimeout.PROCEED:
            self._gate.open()
        else:
            self._gate.reject("the state could not be resynchronised (resync.on_timeout is reject)")

    def _request(self, link: Link, connection: int) -> Message:
        body: dict[str, object] = {
            "epoch": self._epoch,
            "connection": connection,
            "reported_version": self._reported.version,
            "desired_version": self._desired.version,
            "from": self._device_id,
        }
        if not link.limits.gives_reasons:  # MQTT 3.1.1 has no place for them but here
            body["response_topic"], body["correlation_data"] = self._topics.desired, self._correlation.decode()
        left = _LARGEST_REQUEST - len(encode.document({**body, "sent": {}}))
        sent: dict[str, tuple[int, int]] = {}
        for stream, epoch, seq in self._sent():
            left -= len(encode.document({stream: (epoch, seq)}))
            if left < 0:
                break
            sent[stream] = epoch, seq
        return Message(
            topic=self._topics.get_state,
            payload=encode.document({**body, "sent": sent}),
            response_topic=self._topics.desired,
            correlation_data=self._correlation,
        )


async def _until(event: asyncio.Event, time: float) -> None:
    try:
        async with asyncio.timeout_at(time):
            await event.wait()
    except TimeoutError:
        pass


def _correlation_of(said: Mapping[str, Any]) -> bytes | None:
    """Return the correlation data that stands in the body, as MQTT 3.1.1 has to have it."""
    text = said.get("correlation_data")
    return text.encode("utf-8", "replace") if isinstance(text, str) else None

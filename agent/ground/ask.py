"""Asking a device: a command goes out, its result comes back. `roamd ground send`, `get-state`, `set`."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any, TypeVar

from agent import clock, reasons
from agent.errors import LinkDownError, UnavailableError
from agent.groups import only
from agent.link.opening import Hello, open_session
from agent.link.session import Session
from agent.model import Inbound, Message

T = TypeVar("T")

_NOBODY = 0x10
_CLOSE_WITHIN = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command to the device whose topics begin with `prefix`. `id` names it for ever; times are in seconds.

    It is not begun any more `ttl` seconds after it was sent, and nobody waits for its result after `timeout`.
    """

    prefix: str
    name: str
    id: str
    args: Mapping[str, Any] = field(default_factory=dict)
    timeout: float
    ttl: float

    @property
    def reply_to(self) -> str:
        """Where the result goes: where it goes anyhow, so that `roamd ground run` has it, too."""
        return f"{self.prefix}/result/{self.name}"

    def message(self) -> Message:
        """Return what is published."""
        body: dict[str, object] = {"id": self.id, "ts": clock.unix_ms()}
        if self.args:
            body["args"] = self.args
        return Message(
            topic=f"{self.prefix}/cmd/{self.name}",
            payload=json.dumps(body, separators=(",", ":")).encode(),
            expiry=max(1, ceil(self.ttl)),
            response_topic=self.reply_to,
            correlation_data=self.id.encode(),
        )


async def ask(command: Command, hello: Hello, *, accepted: Callable[[], None]) -> dict[str, Any]:
    """Send a command, and return its result; `accepted` is called when it will take longer. Raises UnavailableError."""

    async def over(session: Session) -> dict[str, Any]:
        (code,) = await session.subscribe(command.reply_to)
        if code >= reasons.GRANTED_BELOW:
            raise UnavailableError(f"the broker refuses {command.reply_to}: {reasons.describe(code)}")
        await _publish(session, command.message(), nobody=f"no device has subscribed to {command.prefix}/cmd")
        while True:
            message = await session.inbound.get()
            session.acknowledge(message)
            result = _result(message, command) if isinstance(message, Inbound) else None
            if result is not None and result.get("status") != "accepted":
                return result
            if result is not None:
                accepted()

    late = f"no result of {command.name} (id {command.id}) within {command.timeout:g} s"
    return await _connected(hello, over, timeout=command.timeout, late=late)


def _result(message: Inbound, command: Command) -> dict[str, Any] | None:
    """Return the body where this is the command's result."""
    try:
        body = json.loads(message.payload.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict):
        return None
    same = message.correlation_data == command.id.encode() or body.get("id") == command.id
    return body if same else None


async def push(message: Message, hello: Hello, *, timeout: float) -> None:  # noqa: ASYNC109  of all steps
    """Publish one message. Raises UnavailableError."""
    late = f"the broker did not take {message.topic} within {timeout:g} s"
    await _connected(hello, lambda session: _publish(session, message, nobody=None), timeout=timeout, late=late)


async def _publish(session: Session, message: Message, *, nobody: str | None) -> None:
    """Publish; `nobody` is what to say where nobody has subscribed (MQTT 5 section 3.4.2.1), None: that is well."""
    if not session.takes(message):
        raise UnavailableError(f"the broker takes no message of {session.size(message)} bytes")
    code = await session.publish(message)
    if code >= reasons.GRANTED_BELOW:
        raise UnavailableError(f"the broker refuses {message.topic}: {reasons.describe(code)}")
    if code == _NOBODY and nobody is not None:
        raise UnavailableError(nobody)


async def _connected(
    hello: Hello,
    work: Callable[[Session], Awaitable[T]],
    *,
    timeout: float,  # noqa: ASYNC109  of all steps
    late: str,
) -> T:
    """Connect, work, and take leave. Raises UnavailableError: there is no link, or no longer, or it is `late`."""
    try:
        with only(UnavailableError), only(LinkDownError):
            async with asyncio.timeout(timeout), open_session(hello) as session, asyncio.TaskGroup() as group:
                watch = group.create_task(session.watch())
                done = await work(session)
                watch.cancel()
                await session.finish(within=_CLOSE_WITHIN)
    except LinkDownError as exc:
        raise UnavailableError(str(exc)) from exc
    except TimeoutError:
        raise UnavailableError(late) from None
    return done

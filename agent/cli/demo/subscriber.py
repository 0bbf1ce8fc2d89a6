"""The demo's subscriber: a persistent session that receives across outages of the broker."""

import asyncio

from agent import clock
from agent.cli.demo.tally import Tally
from agent.errors import LinkDownError
from agent.link.opening import Hello, open_session
from agent.link.session import Session
from agent.model import Released, Server

_REDIAL = 0.1


class Subscriber:
    """Receives `{prefix}/#` and counts it. `subscribed` is set once the broker has the subscription."""

    def __init__(self, prefix: str, tally: Tally) -> None:
        self.subscribed = asyncio.Event()
        self.arrived = asyncio.Event()
        self._prefix = prefix
        self._tally = tally

    async def receive(self, port: int) -> None:
        """Receive for ever."""
        hello = Hello(server=Server(host="127.0.0.1", port=port), client_id="roamd-demo-subscriber")
        while True:
            try:
                async with open_session(hello) as session, asyncio.TaskGroup() as group:
                    group.create_task(session.watch())
                    if not session.limits.session_present:
                        await session.subscribe(f"{self._prefix}/#")
                    self.subscribed.set()
                    await self._take(session)
            except* LinkDownError:
                await asyncio.sleep(_REDIAL)

    async def _take(self, session: Session) -> None:
        while True:
            message = await session.inbound.get()
            if isinstance(message, Released):
                continue  # nothing comes at QoS 2
            self._tally.take(message.topic, message.payload, clock.monotonic())
            session.acknowledge(message)
            self.arrived.set()

"""The demo's course: start everything, take the broker away, bring it back, and count."""

import asyncio
import json
from pathlib import Path

from agent import clock
from agent.cli.demo.broker import Broker
from agent.cli.demo.child import ask_status, running
from agent.cli.demo.screen import Screen, View
from agent.cli.demo.subscriber import Subscriber
from agent.cli.demo.tally import Tally, Verdict
from agent.errors import UnavailableError
from agent.store.inspect import read_counts

_DEVICE = "demo"
_PREFIX = f"device/{_DEVICE}"
_REFRESH = 0.25
_OUTAGE_AFTER = 10.0
_DRAIN_WITHIN = 60.0
_ARRIVE_WITHIN = 10.0
_INTERVALS = {"cpu": 0.5, "memory": 1.0, "network": 1.0, "disk": 2.0, "thermal": 2.0, "host": 5.0}


class Play:
    """One run of the demo in a temporary folder."""

    def __init__(self, folder: Path, broker: Broker, screen: Screen) -> None:
        self._broker = broker
        self._screen = screen
        self._config = folder / "roamd.toml"
        self._database = folder / "state" / "outbox.db"
        self._socket = folder / "roamd.sock"
        self._view = View(Tally(_PREFIX))
        self._drained = asyncio.Event()

    async def run(self, *, duration: float | None, outage: float | None, stop: asyncio.Event) -> Verdict:
        """Play it, and return how it went. Raises UnavailableError."""
        await self._broker.start()
        self._screen.say(f"mosquitto on 127.0.0.1:{self._broker.port}; a subscriber to {_PREFIX}/#")
        self._config.write_text(self._settings(), encoding="utf-8")
        subscriber = Subscriber(_PREFIX, self._view.tally)
        async with asyncio.TaskGroup() as group:
            receiving = group.create_task(subscriber.receive(self._broker.port))
            await subscriber.subscribed.wait()
            await self._broker.remember()
            async with running(self._config, self._view.log) as process:
                showing = group.create_task(self._show())
                await self._course(process, duration, outage, stop)
                showing.cancel()
            verdict = await self._count(subscriber)
            receiving.cancel()
        return verdict

    async def _course(
        self, process: asyncio.subprocess.Process, duration: float | None, outage: float | None, stop: asyncio.Event
    ) -> None:
        """Let it run, with the outage midway; return when the outbox is empty, or has had its time."""
        async with asyncio.TaskGroup() as group:
            ended = group.create_task(process.wait())
            acts = group.create_task(self._acts(duration, outage, stop))
            await asyncio.wait([ended, acts], return_when=asyncio.FIRST_COMPLETED)
            if not acts.done():
                acts.cancel()
                raise UnavailableError("the agent ended by itself:\n" + "\n".join(self._view.log[-20:]))
            ended.cancel()

    async def _acts(self, duration: float | None, outage: float | None, stop: asyncio.Event) -> None:
        began = clock.monotonic()
        if outage is not None:
            await _set_within(stop, _OUTAGE_AFTER if duration is None else max(0.0, (duration - outage) / 2))
            if not stop.is_set():
                await self._take_broker_away(outage, stop)
        left = None if duration is None else max(0.0, began + duration - clock.monotonic())
        await _set_within(stop, left)
        self._screen.say("--- the end: what the outbox still holds goes out first")
        self._drained.clear()
        await _set_within(self._drained, _DRAIN_WITHIN)

    async def _take_broker_away(self, seconds: float, stop: asyncio.Event) -> None:
        self._screen.say(f"--- the broker is killed (SIGKILL) for {seconds:g} s")
        self._view.broker = "down"
        await self._broker.kill()
        await _set_within(stop, seconds)
        await self._broker.start()
        self._view.broker = "up"
        self._screen.say("--- the broker is back")

    async def _show(self) -> None:
        began = clock.monotonic()
        while True:
            self._view.agent = await ask_status(self._socket)
            if self._view.link == "up" and self._view.depth == 0:
                self._drained.set()
            now = clock.monotonic()
            self._view.elapsed = now - began
            self._screen.show(self._view, now)
            await asyncio.sleep(_REFRESH)

    async def _count(self, subscriber: Subscriber) -> Verdict:
        """Compare what the agent's file says that it accepted with what has arrived, once no more arrives."""
        tally = self._view.tally
        streams = [counts for counts in await read_counts(self._database) if not counts.name.startswith("/")]
        accepted = sum(counts.accepted for counts in streams)
        waiting = sum(counts.waiting for counts in streams)
        while tally.delivered < accepted - waiting:
            subscriber.arrived.clear()
            if not await _set_within(subscriber.arrived, _ARRIVE_WITHIN):
                break
        return Verdict(accepted=accepted, delivered=tally.delivered, doubled=tally.doubled, waiting=waiting)

    def _settings(self) -> str:
        streams = "".join(f"[streams.{name}]\ninterval = {interval}\n" for name, interval in _INTERVALS.items())
        return (
            f'device_id = "{_DEVICE}"\n'
            f'[broker]\nurls = ["mqtt://127.0.0.1:{self._broker.port}"]\n'
            "[broker.backoff]\ncap = 2.0\nlink_cap = 2.0\n"
            f"[outbox]\npath = {json.dumps(str(self._database))}\n"
            f"[ingest]\nsocket = {json.dumps(str(self._socket))}\n"
            "[health]\ninterval = 5\n" + streams
        )


async def _set_within(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait for the event; tell whether it was set in time."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False

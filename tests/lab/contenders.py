"""Who is measured: each starts one client in the robot's namespace, and notes what the client says of its link."""

import asyncio
import importlib.util
import math
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from agent import sources
from agent.settings.models import BrokerTable
from bench.broker import bridge_settings
from tests.lab.namespaces import ENVIRONMENT, Namespace
from tests.lab.net import BROKER, CERTIFICATE, PORT, TLS_PORT
from tests.support.agent_process import ROOT, AgentProcess, Setting
from tests.support.agent_socket import AgentSocket
from tests.support.child import Child

INTERVAL = 0.5
"""Seconds between two messages of a client."""
AGENT = "roamd"
AGENT_TLS = "roamd-tls"
AGENTS = frozenset({AGENT, AGENT_TLS})
_LARGE = 50_000


@dataclass(slots=True, kw_only=True)
class Client:
    """One that publishes: `sent` is when each number was handed over, `downs` when it told that its link is down."""

    name: str
    contender: str
    sent: dict[int, float] = field(default_factory=dict)
    downs: list[float] = field(default_factory=list)
    log: list[tuple[float, str]] = field(default_factory=list)
    """Each line of its log, with when it was read."""
    burst: Callable[[int], Awaitable[None]] | None = None
    """Hands over so many bytes at once, in messages that are numbered as the others."""
    _is_up: bool = False

    def note(self, line: str, *, up: str, down: str) -> None:
        """Take a line of its log; a failed attempt after a `down` is no second one."""
        self.log.append((_now(), line))
        if re.search(up, line):
            self._is_up = True
        elif re.search(down, line) and self._is_up:
            self._is_up = False
            self.downs.append(_now())


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """`skip` says why it cannot take part. `run` starts a client of that name with its files in the folder."""

    name: str
    run: Callable[[Namespace, Path, str], AbstractAsyncContextManager[Client]]
    skip: str = ""


def _now() -> float:
    return asyncio.get_running_loop().time()


# The agent.


@asynccontextmanager
async def _roamd(robot: Namespace, folder: Path, name: str, *, contender: str) -> AsyncIterator[Client]:
    client = Client(name=name, contender=contender)
    settings: dict[str, Setting] = {
        "device_id": name,
        **_server(contender, folder),
        "health.interval": 0,
        "streams.synced.delivery": "synced",
        **{f"streams.{source}.enabled": False for source in sources.STARTED},
    }
    agent = AgentProcess(
        folder,
        settings,
        environment={"PATH": ENVIRONMENT["PATH"]},
        command=robot.command(sys.executable, "-m", "agent", "run"),
    )
    note = partial(client.note, up=r"\blink up\b", down=r"\blink down\b")
    async with agent:
        agent.child.on_error_line = note
        for line in agent.lines:
            note(line)
        await agent.wait_for_line(r"\blink up\b")
        async with AgentSocket(agent.socket) as socket, asyncio.TaskGroup() as group:
            feed = _Feed(socket, client)
            client.burst = feed.burst
            feeding = group.create_task(feed.run())
            yield client
            feeding.cancel()


def _server(contender: str, folder: Path) -> dict[str, Setting]:
    if contender == AGENT_TLS:
        ca = next(parent / CERTIFICATE for parent in folder.parents if (parent / CERTIFICATE).exists())
        return {"broker.urls": [f"mqtts://{BROKER}:{TLS_PORT}"], "broker.ca_file": ca}
    return {"broker.urls": [f"mqtt://{BROKER}:{PORT}"]}


def _why_no_tls() -> str:
    try:
        BrokerTable(urls=("mqtts://localhost",))
    except ValueError:
        return "the settings take no mqtts:// yet"
    return ""


class _Feed:
    """A local program that hands its messages to the agent: the odd ones to be `stored`, the even ones `synced`."""

    def __init__(self, socket: AgentSocket, client: Client) -> None:
        self._socket = socket
        self._client = client

    async def run(self) -> None:
        start, count = _now(), 0
        while True:
            count += 1
            await self._put("")
            await asyncio.sleep(max(0.0, start + count * INTERVAL - _now()))

    async def burst(self, size: int) -> None:
        for _ in range(math.ceil(size / _LARGE)):
            await self._put("x" * _LARGE)

    async def _put(self, filling: str) -> None:
        number = len(self._client.sent) + 1
        self._client.sent[number] = _now()
        await self._socket.put("stored" if number % 2 else "synced", n=number, filling=filling)


# Its peers.


@asynccontextmanager
async def _peer(
    robot: Namespace, _folder: Path, name: str, *, which: str, keep_alive: int, contender: str
) -> AsyncIterator[Client]:
    client = Client(name=name, contender=contender)

    def take(line: str) -> None:
        word, _, number = line.partition(" ")
        if word == "sent":
            client.sent[int(number)] = _now()
        client.note(line, up="^up$", down="^down$")

    argv = robot.command(*_argv(which, BROKER, PORT, name, keep_alive))
    child = await Child.spawn(argv, name=name, env=ENVIRONMENT, cwd=ROOT, on_line=take)
    try:
        yield client
    finally:
        await child.end()


def _argv(which: str, host: str, port: int, name: str, keep_alive: int) -> tuple[object, ...]:
    return (sys.executable, "-m", "tests.lab.peers", which, host, port, name, keep_alive)


@asynccontextmanager
async def _bridge(robot: Namespace, folder: Path, name: str) -> AsyncIterator[Client]:
    client = Client(name=name, contender="bridge")
    port = PORT + 1 + int(name.rpartition("-")[2])
    config = folder / "bridge.conf"
    lines = (
        f"listener {port} 127.0.0.1",
        "allow_anonymous true",
        "max_queued_messages 0",
        "log_dest stderr",
        "log_type all",
        "user root",
        *bridge_settings(folder, PORT, host=BROKER),
        f"remote_clientid {name}",
    )
    config.write_text("\n".join((*lines, "")), encoding="utf-8")

    def take(line: str) -> None:
        word, _, number = line.partition(" ")
        if word == "sent":
            client.sent[int(number)] = _now()

    bridge = await Child.spawn(robot.command("mosquitto", "-c", config), name=name, env=ENVIRONMENT, cwd=folder)
    bridge.on_error_line = partial(
        client.note, up=r"Received CONNACK on connection local\.", down=r"Client local\.|Connecting bridge"
    )
    try:
        await bridge.line("mosquitto version .* running", lines=bridge.err, within=30)
        argv = robot.command(*_argv("paho", "127.0.0.1", port, name, 60))
        producer = await Child.spawn(argv, name=f"producer {name}", env=ENVIRONMENT, cwd=ROOT, on_line=take)
        try:
            yield client
        finally:
            await producer.end()
    finally:
        await bridge.end()


def _library(name: str, which: str, *, module: str, keep_alive: int) -> Contender:
    missing = importlib.util.find_spec(module) is None
    return Contender(
        name=name,
        run=partial(_peer, which=which, keep_alive=keep_alive, contender=name),
        skip=f"{module} is missing: pip install {module}" if missing else "",
    )


CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(name=AGENT, run=partial(_roamd, contender=AGENT)),
        Contender(name=AGENT_TLS, run=partial(_roamd, contender=AGENT_TLS), skip=_why_no_tls()),
        _library("gmqtt", "gmqtt", module="gmqtt", keep_alive=60),
        _library("paho-15", "paho", module="paho", keep_alive=15),
        _library("paho-60", "paho", module="paho", keep_alive=60),
        _library("aiomqtt", "aiomqtt", module="aiomqtt", keep_alive=60),
        Contender(name="bridge", run=_bridge),
    )
}

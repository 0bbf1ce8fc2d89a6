"""What systemd is told (sd_notify(3)), by a datagram socket in its place."""

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.agent_process import AgentProcess, Setting
from tests.support.mosquitto import Mosquitto


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.setblocking(False)  # noqa: FBT003  socket's own
        yield sock


async def told(sock: socket.socket, beginning: str) -> list[str]:
    """Receive until a message begins like this; returns all of them."""
    messages: list[str] = []
    async with asyncio.timeout(30):
        while not messages or not messages[-1].startswith(beginning):
            messages.append((await asyncio.get_running_loop().sock_recv(sock, 4096)).decode())
    return messages


async def test_ready_does_not_wait_for_the_broker(state_dir: Path) -> None:
    path = state_dir / "notify"
    with listening(path) as sock:
        settings = {"broker.urls": ["mqtt://127.0.0.1:1"]}
        async with AgentProcess(state_dir, settings, environment={"NOTIFY_SOCKET": str(path)}) as agent:
            await told(sock, "READY=1")
            await told(sock, "STATUS=waiting to connect: cannot connect to 127.0.0.1:1")
            agent.sigterm()
            await told(sock, "STOPPING=1")
            assert await agent.wait() == 0


async def test_the_status_follows_the_link(mosquitto: Mosquitto, state_dir: Path) -> None:
    path = state_dir / "notify"
    with listening(path) as sock:
        settings = {"broker.urls": [mosquitto.url]}
        async with AgentProcess(state_dir, settings, environment={"NOTIFY_SOCKET": str(path)}):
            await told(sock, "STATUS=up, connection 1")
            await mosquitto.kill()
            await told(sock, "STATUS=waiting to connect: ")


async def test_a_service_manager_that_does_not_read_holds_up_nothing(state_dir: Path) -> None:
    path = state_dir / "notify"
    with listening(path):
        settings = {"broker.urls": ["mqtt://127.0.0.1:1"], "broker.backoff.base": 0.01, "broker.backoff.cap": 0.02}
        async with AgentProcess(state_dir, settings, environment={"NOTIFY_SOCKET": str(path)}) as agent:
            for _ in range(30):
                await agent.wait_for_line("link down")
            agent.sigterm()
            assert await agent.wait() == 0


async def test_a_service_manager_that_is_not_there_is_no_failure(state_dir: Path) -> None:
    settings = {"broker.urls": ["mqtt://127.0.0.1:1"]}
    environment = {"NOTIFY_SOCKET": str(state_dir / "nobody")}
    async with AgentProcess(state_dir, settings, environment=environment) as agent:
        await agent.wait_for_line("is up")
        agent.sigterm()
        assert await agent.wait() == 0


async def test_the_watchdog_is_fed_while_the_link_is_down(state_dir: Path) -> None:
    path = state_dir / "notify"
    with listening(path) as sock:
        settings: dict[str, Setting] = {"broker.urls": ["mqtt://127.0.0.1:1"]}
        environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "300000"}
        async with AgentProcess(state_dir, settings, environment=environment) as agent:
            for _ in range(5):
                await told(sock, "WATCHDOG=1")
            agent.sigterm()
            assert await agent.wait() == 0


async def test_what_the_watchdog_ends_tells_where_it_stood(state_dir: Path) -> None:
    path = state_dir / "notify"
    with listening(path) as sock:
        settings: dict[str, Setting] = {"broker.urls": ["mqtt://127.0.0.1:1"]}
        environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "300000"}
        async with AgentProcess(state_dir, settings, environment=environment) as agent:
            await told(sock, "WATCHDOG=1")
            agent.child.signal(signal.SIGABRT)  # what systemd sends in the end
            await agent.wait_for_line("Fatal Python error: Aborted")
            assert await agent.wait() == -signal.SIGABRT
            assert any("run_forever" in line for line in agent.lines)

"""The network's news, from a real kernel."""

import asyncio
import errno
import os
import socket
import subprocess
import sys
from typing import Any

import pytest

from agent.link import netwatch
from tests.support.robot_net import robot_net


@pytest.mark.root(reason="it makes a network namespace")
async def test_a_new_address_is_news_and_the_way_to_it_is_seen() -> None:
    news = asyncio.Event()
    with netwatch.watching(news.set), robot_net(kbit_per_second=1000) as net:
        async with asyncio.timeout(30):
            await news.wait()
        neighbour = net.broker.rpartition(".")[0] + ".2"
        assert netwatch.source_to(neighbour) == net.broker


@pytest.mark.root(reason="it makes a network namespace")
async def test_many_events_of_one_change_are_told_together() -> None:
    told: list[float] = []
    with netwatch.watching(lambda: told.append(asyncio.get_running_loop().time())), robot_net(kbit_per_second=1000):
        async with asyncio.timeout(30):
            while not told:  # noqa: ASYNC110  the kernel tells
                await asyncio.sleep(0.01)
    # An interface with an address and a route makes a dozen events.
    assert len(told) <= 5


@pytest.mark.root(reason="it makes a network namespace")
def test_where_there_is_no_route_there_is_no_source() -> None:
    ask = "from agent.link.netwatch import source_to; print(source_to(None), source_to('192.0.2.7'), source_to('::2'))"
    with robot_net(kbit_per_second=1000) as net:
        told = subprocess.run(
            ["ip", "netns", "exec", net.name, sys.executable, "-c", ask],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
    assert told.stdout == "None None None\n"


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_this_machine_reaches_itself(address: str) -> None:
    assert netwatch.source_to(address) == address


@pytest.mark.parametrize("step", ["socket", "bind"])
async def test_where_it_cannot_be_watched_it_is_said_once_and_all_else_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    class Refusing(socket.socket):
        """As systemd's RestrictAddressFamilies and a container's filter refuse it."""

        def __init__(self, family: int = -1, *more: Any) -> None:  # noqa: ANN401
            if step == "socket" and family == socket.AF_NETLINK:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, *more)

        def bind(self, address: Any) -> None:  # noqa: ANN401
            raise PermissionError(errno.EPERM, f"Operation not permitted: {address}")

    monkeypatch.setattr(netwatch.socket, "socket", Refusing)
    with netwatch.watching(lambda: None):
        assert netwatch.source_to("127.0.0.1") == "127.0.0.1"
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("cannot watch the network (")
    assert line.endswith("changes are noticed within a second instead")


_LINK_LOCAL = """
import asyncio, socket, sys
from agent.errors import LinkDownError
from agent.link.netwatch import source_to
from agent.link.opening import Hello, open_session
from agent.link.states import Dialled
from agent.model import Server

async def main():
    host = sys.argv[1]
    with socket.socket(socket.AF_INET6) as listener:
        listener.bind(("::", 0))
        listener.listen()
        server, told = Server(host=host, port=listener.getsockname()[1]), []
        try:
            async with open_session(Hello(server=server, client_id="r", hello_timeout=0.1), tell=told.append):
                pass
        except LinkDownError:
            pass
    [dialled] = [event for event in told if isinstance(event, Dialled)]
    print(dialled.source == source_to(dialled.peer) == source_to(host))

asyncio.run(main())
"""


@pytest.mark.root(reason="it makes a network namespace")
def test_the_way_to_a_link_local_address_is_seen() -> None:
    with robot_net(kbit_per_second=1000) as net:
        device = f"rr{os.getpid()}"
        for arguments in (("link", "set", "lo", "up"), ("addr", "add", "fe80::77/64", "dev", device, "nodad")):
            subprocess.run(["ip", "-n", net.name, *arguments], timeout=30, check=True)
        told = subprocess.run(
            ["ip", "netns", "exec", net.name, sys.executable, "-c", _LINK_LOCAL, f"fe80::77%{device}"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert (told.stdout, told.stderr) == ("True\n", "")

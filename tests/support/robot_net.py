"""A network of the robot's own: a namespace with one cable to this machine, as thin as told (ip-netns(8), tc(8))."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support.child import program


@dataclass(frozen=True, slots=True)
class RobotNet:
    """`broker` is this machine's address on the cable; `command` runs the agent at the other end."""

    name: str
    broker: str

    @property
    def command(self) -> tuple[str, ...]:
        return (program("ip", package="iproute2"), "netns", "exec", self.name, sys.executable, "-m", "agent", "run")


@contextmanager
def robot_net(*, kbit_per_second: int) -> Iterator[RobotNet]:
    """Make the namespace; what the robot sends has so many kbit a second."""
    number = os.getpid() % 250 + 1
    name, here, there = f"roamd-{os.getpid()}", f"rm{os.getpid()}", f"rr{os.getpid()}"
    broker, robot = f"10.213.{number}.1", f"10.213.{number}.2"
    _ip("netns", "add", name)
    try:
        _ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
        _ip("addr", "add", f"{broker}/30", "dev", here)
        _ip("link", "set", here, "up")
        _ip("-n", name, "addr", "add", f"{robot}/30", "dev", there)
        _ip("-n", name, "link", "set", there, "up")
        rate = f"{kbit_per_second}kbit"
        shaped = ("tc", "qdisc", "add", "dev", there, "root", "tbf", "rate", rate, "burst", "4kb", "latency", "400ms")
        _ip("netns", "exec", name, *shaped)
        yield RobotNet(name, broker)
    finally:
        _ip("netns", "del", name)


def _ip(*arguments: str) -> None:
    done = subprocess.run(
        [program("ip", package="iproute2"), *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"

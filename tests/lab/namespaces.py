"""Network namespaces (network_namespaces(7)) without names: each lives as long as the process that holds it."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.support.child import SBIN, Child, ChildEndedError

_PROGRAMS = {
    "ip": "iproute2",
    "ss": "iproute2",
    "nft": "nftables",
    "mosquitto": "mosquitto",
    "openssl": "openssl",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}
_TUN = Path("/dev/net/tun")
_HOLD = ("sh", "-c", "echo held; exec sleep infinity")
_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), *SBIN))
ENVIRONMENT = {**os.environ, "PATH": _PATH}


class NetError(Exception):
    """A program that sets up the network has failed; the text has what it said."""


def why_not() -> str:
    """Tell what the lab lacks here, in a line; nothing where it can run."""
    lacking = sorted({package for name, package in _PROGRAMS.items() if not shutil.which(name, path=_PATH)})
    if lacking:
        return f"not installed: apt install {' '.join(lacking)}"
    if not os.access(_TUN, os.R_OK | os.W_OK):
        return f"{_TUN} is not there, or not for this user: needs root"
    tried = subprocess.run(
        [*_unshare(), "--net", "ip", "link", "set", "lo", "up"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return f"needs root, or namespaces for users: {tried.stderr.strip()}" if tried.returncode else ""


def _unshare() -> tuple[str, ...]:
    return ("unshare",) if os.geteuid() == 0 else ("unshare", "--user", "--map-root-user")


class Namespace:
    """A namespace with its loopback up and no IPv6; `command` makes of a command line one that runs in it."""

    def __init__(self, name: str, holder: Child, user: Child | None) -> None:
        self.name = name
        self.holder = holder
        self._enter = (
            "nsenter",
            *((f"--user=/proc/{user.pid}/ns/user", "--preserve-credentials") if user else ()),
            f"--net=/proc/{holder.pid}/ns/net",
            # Entering another user namespace takes the parent-death signal away: it is set again inside.
            *("setpriv", "--pdeathsig", "KILL"),
        )

    def command(self, *argv: object) -> tuple[str, ...]:
        return (*self._enter, *map(str, argv))

    async def run(self, *argv: object, text: str = "") -> str:
        """Run a program to its end with `text` as its input, and return what it printed. Raises NetError."""
        process = await asyncio.create_subprocess_exec(
            *self.command(*argv),
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        async with asyncio.timeout(30):
            out, err = await process.communicate(text.encode())
        if process.returncode:
            raise NetError(f"{self.name}: {' '.join(map(str, argv))} {text!r}: {err.decode().strip()}")
        return out.decode()

    @asynccontextmanager
    async def started(self, *argv: object) -> AsyncIterator[Child]:
        """Run a program until the end of the block."""
        child = await Child.spawn(self.command(*argv), name=str(argv[0]), env=ENVIRONMENT)
        try:
            yield child
        finally:
            await _release(child)

    async def ip(self, *lines: str) -> None:
        """Do these lines of ip(8), in one process."""
        await self.run("ip", "-batch", "-", text="\n".join((*lines, "")))

    async def nft(self, text: str) -> None:
        """Load a ruleset (nft(8)) as one transaction."""
        await self.run("nft", "-f", "-", text=text)

    async def set(self, **values: int) -> None:
        """Set values of net.ipv4 (ip-sysctl), with `__` for a slash."""
        lines = (f"echo {value} > /proc/sys/net/ipv4/{key.replace('__', '/')}" for key, value in values.items())
        await self.run("sh", "-ec", "; ".join(lines))


@asynccontextmanager
async def namespaces(*names: str) -> AsyncIterator[list[Namespace]]:
    """Make so many; those of an ordinary user belong to a user namespace in which he is root."""
    async with AsyncExitStack() as stack:
        user = None
        enter: tuple[str, ...] = ()
        if os.geteuid() != 0:
            user = await _hold(stack, "user", (*_unshare(), *_HOLD))
            enter = ("nsenter", f"--user=/proc/{user.pid}/ns/user", "--preserve-credentials")
        spaces = []
        for name in names:
            holder = await _hold(stack, name, (*enter, "unshare", "--net", "setpriv", "--pdeathsig", "KILL", *_HOLD))
            space = Namespace(name, holder, user)
            await space.ip("link set lo up")
            await space.run(
                "sh", "-c", "test ! -d /proc/sys/net/ipv6 || echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"
            )
            spaces.append(space)
        yield spaces


async def _hold(stack: AsyncExitStack, name: str, argv: Sequence[str]) -> Child:
    holder = await Child.spawn(argv, name=f"namespace {name}", env=ENVIRONMENT)
    stack.push_async_callback(_release, holder)
    await holder.line("held", lines=holder.out, within=30)
    return holder


async def _release(holder: Child) -> None:
    with contextlib.suppress(ChildEndedError):
        holder.signal(signal.SIGKILL)
    await holder.wait()

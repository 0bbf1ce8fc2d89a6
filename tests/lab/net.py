"""The network of the lab: who is cabled to whom, and what may be done to it."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tests.lab.namespaces import ENVIRONMENT, Namespace, namespaces
from tests.support.agent_process import ROOT
from tests.support.child import Child

BROKER, PORT, TLS_PORT = "10.77.0.1", 1883, 8883
CERTIFICATE = "broker.pem"
"""The broker's, which signed itself, in the folder of the lab."""
HALF = 0.020
"""Seconds that a frame is in the air, each way: the round trip is 40 ms."""
_FIRST = 2


class Nat(Enum):
    """Whether the base stations hide the robot's address."""

    NONE = "no NAT"
    MASQUERADE = "NAT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Modem:
    """One of the robot's, with the base station that it talks to."""

    device: str
    number: int
    station: Namespace

    def address(self, host: int) -> str:
        return f"10.77.{self.number}.{host}"

    @property
    def gateway(self) -> str:
        return self.address(1)

    def attach(self, host: int) -> tuple[str, ...]:
        """The lines of ip(8) that a DHCP client stands for."""
        return (f"addr add {self.address(host)}/24 dev {self.device}", self.route)

    @property
    def route(self) -> str:
        return f"route replace default via {self.gateway} dev {self.device}"


class Net:
    """`robot` and `core` are namespaces: the robot's, and that of the broker. `modem` is the one in use."""

    def __init__(self, robot: Namespace, core: Namespace, modems: tuple[Modem, Modem], orders: Path) -> None:
        self.robot = robot
        self.core = core
        self.modems = modems
        self.modem = modems[0]
        self._orders = orders
        self._host = _FIRST

    @property
    def other_modem(self) -> Modem:
        return next(modem for modem in self.modems if modem is not self.modem)

    def new_host(self) -> int:
        """The last part of an address that the robot has not had yet."""
        self._host = _FIRST + (self._host - _FIRST + 1) % 250
        return self._host

    async def reset(self, nat: Nat = Nat.NONE) -> None:
        """Put everything as it is at the beginning, on the first modem with a new address."""
        self.modem = self.modems[0]
        for modem in self.modems:
            await self.reset_air(modem)
            await modem.station.nft("flush ruleset\n" + (_masquerade(modem) if nat is Nat.MASQUERADE else ""))
        await self.core.nft("flush ruleset")
        await self.robot.ip(
            *(f"addr flush dev {modem.device}" for modem in self.modems),
            *(f"link set {modem.device} carrier on up" for modem in self.modems),
            *self.modem.attach(self.new_host()),
        )

    async def reset_air(self, modem: Modem) -> None:
        """Nothing is lost, and the round trip is 40 ms."""
        await self.air(modem, delay=HALF, loss=0.0)

    async def air(self, modem: Modem, *, delay: float | None = None, loss: float | None = None) -> None:
        """Change the air at this modem, both ways; returns once it is so."""
        order = {"path": modem.device, "way": "both", "delay": delay, "loss": loss}
        reader, writer = await asyncio.open_unix_connection(str(self._orders))
        try:
            writer.write(json.dumps({key: value for key, value in order.items() if value is not None}).encode() + b"\n")
            async with asyncio.timeout(30):
                assert await reader.readline() == b"ok\n", "the forwarder has ended"
        finally:
            writer.close()
            await writer.wait_closed()


def _masquerade(modem: Modem) -> str:
    return f"""table ip nat {{ chain out {{
        type nat hook postrouting priority 100; oifname "core{modem.number}" masquerade;
    }}
    }}"""


@asynccontextmanager
async def net(folder: Path) -> AsyncIterator[Net]:
    """Build it; it is gone with the block."""
    orders = folder / "air"
    async with AsyncExitStack() as stack:
        robot, first, second, core, air = await stack.enter_async_context(
            namespaces("robot", "bs1", "bs2", "broker", "air")
        )
        modems = (
            Modem(device="wl0", number=1, station=first),
            Modem(device="wl1", number=2, station=second),
        )
        pairs = [f"{modem.device}:air{modem.number}" for modem in modems]
        argv = air.command(sys.executable, "-m", "tests.lab.forwarder", orders, *pairs)
        forwarder = await Child.spawn(argv, name="forwarder", env=ENVIRONMENT, cwd=ROOT)
        stack.push_async_callback(forwarder.end)
        await forwarder.line("ready", lines=forwarder.out, within=30)
        await core.ip(f"addr add {BROKER}/32 dev lo")
        for modem in modems:
            await _cable(robot, air, core, modem)
        lab = Net(robot, core, modems, orders)
        await lab.reset()
        yield lab


async def _cable(robot: Namespace, air: Namespace, core: Namespace, modem: Modem) -> None:
    station, number, radio, uplink = modem.station, modem.number, f"air{modem.number}", f"core{modem.number}"
    await air.ip(
        f"link set {modem.device} netns {robot.holder.pid}",
        f"link set {radio} netns {station.holder.pid}",
    )
    await core.ip(
        f"link add bs{number} type veth peer name {uplink} netns {station.holder.pid}",
        f"addr add 10.77.10{number}.1/30 dev bs{number}",
        f"link set bs{number} up",
    )
    await station.ip(
        f"addr add 10.77.10{number}.2/30 dev {uplink}",
        f"link set {uplink} up",
        f"addr add {modem.gateway}/24 dev {radio}",
        f"link set {radio} up",
        f"route add {BROKER}/32 via 10.77.10{number}.1",
    )
    await station.set(ip_forward=1, **{f"conf__{radio}__rp_filter": 1})
    await core.ip(f"route add {modem.address(0)}/24 via 10.77.10{number}.2")
    await robot.ip(f"link set {modem.device} up")

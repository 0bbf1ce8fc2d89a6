"""What happens to a link. A fault with an end is a context manager: the path is usable again when it has ended."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.lab.broker import Broker
from tests.lab.net import BROKER, Net


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """All that a fault may happen to."""

    net: Net
    broker: Broker


@asynccontextmanager
async def admin_down(lab: Lab) -> AsyncIterator[None]:
    """The modem's interface is set down; afterwards the DHCP client sets the route again."""
    modem = lab.net.modem
    await lab.net.robot.ip(f"link set {modem.device} down")
    yield
    await lab.net.robot.ip(f"link set {modem.device} up", modem.route)


@asynccontextmanager
async def carrier_off(lab: Lab) -> AsyncIterator[None]:
    """The modem has lost its network; address and route stay."""
    device = lab.net.modem.device
    await lab.net.robot.ip(f"link set {device} carrier off")
    yield
    await lab.net.robot.ip(f"link set {device} carrier on")


@asynccontextmanager
async def black_hole(lab: Lab) -> AsyncIterator[None]:
    """All is lost in the air, both ways, and nobody is told."""
    modem = lab.net.modem
    await lab.net.air(modem, loss=1.0)
    yield
    await lab.net.air(modem, loss=0.0)


@asynccontextmanager
async def poor_air(lab: Lab, *, loss: float, delay: float) -> AsyncIterator[None]:
    """This share of the frames is lost each way, and the others take `delay` seconds each way."""
    modem = lab.net.modem
    await lab.net.air(modem, loss=loss, delay=delay)
    yield
    await lab.net.reset_air(modem)


@asynccontextmanager
async def broker_frozen(lab: Lab) -> AsyncIterator[None]:
    """The broker stands still; its kernel still takes connections and bytes."""
    lab.broker.freeze()
    yield
    lab.broker.thaw()


@asynccontextmanager
async def broker_gone(lab: Lab) -> AsyncIterator[None]:
    """The broker is killed, and comes back without any session."""
    await lab.broker.kill()
    yield
    await lab.broker.start()


async def handoff(lab: Lab, *, gap: float) -> None:
    """Leave one base station for the other: after `gap` seconds without any address there is a new one."""
    old, new = lab.net.modem, lab.net.other_modem
    leave, arrive = f"addr flush dev {old.device}", new.attach(lab.net.new_host())
    if gap:
        await lab.net.robot.ip(leave)
        await asyncio.sleep(gap)
        await lab.net.robot.ip(*arrive)
    else:
        await lab.net.robot.ip(leave, *arrive)
    lab.net.modem = new


async def rehome(lab: Lab) -> None:
    """The only modem gets another address from the same base station."""
    modem = lab.net.modem
    await lab.net.robot.ip(f"addr flush dev {modem.device}", *modem.attach(lab.net.new_host()))


async def reset_by_middlebox(lab: Lab) -> None:
    """The base station has forgotten the connections that are: it answers their next packet with RST."""
    told = await lab.net.robot.run("ss", "--tcp", "--no-header", "--numeric", "state", "established", "dst", BROKER)
    ports = ", ".join(line.split()[2].rpartition(":")[2] for line in told.splitlines())
    await lab.net.modem.station.nft(f"""table ip forgotten {{ chain through {{
        type filter hook forward priority 0; tcp sport {{ {ports} }} ip daddr {BROKER} reject with tcp reset;
    }}
    }}""")

"""The lab itself: what it says of a network is so."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.lab import faults
from tests.lab.faults import Lab
from tests.lab.forwarder import Air, Way
from tests.lab.namespaces import NetError
from tests.lab.net import BROKER, Nat
from tests.support.child import Child

FRAME, ARP = bytes(12) + b"\x08\x00" + b"packet", bytes(12) + b"\x08\x06" + b"who has"
CONNECT = """
import socket, sys, time
start = time.monotonic()
with socket.create_connection((sys.argv[1], 9999), timeout=float(sys.argv[2])):
    print(time.monotonic() - start)
"""
LISTEN = """
import socket
with socket.create_server(("", 9999)) as server:
    print("listens", flush=True)
    with server.accept()[0] as connection:
        print("peer", connection.getpeername()[0], flush=True)
"""


def test_a_frame_is_handed_on_after_the_delay_in_its_order() -> None:
    air, way = Air(), Way(delay=0.02)
    air.take(b"a" + FRAME, way, 7, 1.0)
    air.take(b"b" + FRAME, way, 8, 1.0)
    assert air.next_due() == pytest.approx(1.02)
    assert air.ripe(1.019) == []
    assert air.ripe(1.021) == [(7, b"a" + FRAME), (8, b"b" + FRAME)]
    assert air.next_due() is None


def test_the_share_that_is_told_is_lost_but_no_arp() -> None:
    way = Way(delay=0.02, loss=0.2)
    assert way.due(FRAME, 1.0, lot=lambda: 0.19) is None
    assert way.due(FRAME, 1.0, lot=lambda: 0.21) == pytest.approx(1.02)
    assert Way(delay=0.02, loss=1.0).due(ARP, 1.0) == 1.0


def test_an_order_changes_only_what_it_names() -> None:
    air = Air()
    air.ways = {("wl0", "up"): Way(delay=0.02), ("wl0", "down"): Way(delay=0.02)}
    air.change({"path": "wl0", "way": "up", "loss": 1.0})
    air.change({"path": "wl0", "way": "both", "delay": 0.15})
    assert air.ways == {("wl0", "up"): Way(delay=0.15, loss=1.0), ("wl0", "down"): Way(delay=0.15)}


async def connect(lab: Lab, *, within: float = 5.0) -> float:
    """How long the robot takes to make a TCP connection to the broker's address."""
    return float(await lab.net.robot.run(sys.executable, "-c", CONNECT, BROKER, within))


@asynccontextmanager
async def listening(lab: Lab) -> AsyncIterator[Child]:
    async with lab.net.core.started(sys.executable, "-c", LISTEN) as listener:
        await listener.line("listens", lines=listener.out, within=10)
        yield listener


async def test_a_round_trip_takes_40_ms_on_both_ways(lab: Lab) -> None:
    for _ in range(2):
        async with listening(lab):
            assert 0.040 <= await connect(lab) < 0.2
        await faults.handoff(lab, gap=0)


async def test_in_a_black_hole_no_one_answers(lab: Lab) -> None:
    async with faults.black_hole(lab):
        with pytest.raises(NetError, match="TimeoutError: timed out"):
            await connect(lab, within=0.5)
    with pytest.raises(NetError, match="ConnectionRefusedError"):
        await connect(lab)


@pytest.mark.parametrize(("nat", "address"), [(Nat.NONE, "10.77.2."), (Nat.MASQUERADE, "10.77.102.2")])
async def test_after_a_handoff_the_broker_sees_another_address(lab: Lab, nat: Nat, address: str) -> None:
    await lab.net.reset(nat)
    await faults.handoff(lab, gap=0)
    async with listening(lab) as listener:
        await connect(lab)
        peer = await listener.line("peer (.+)", lines=listener.out, within=10)
    assert peer[1].startswith(address)

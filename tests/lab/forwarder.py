"""python -m tests.lab.forwarder SOCKET NEAR:FAR...: the air between TAP devices, with its delay and its losses.

It makes each pair of TAPs, says `ready`, and carries frames between them. A line of JSON on the Unix socket SOCKET,
`{"path": "NEAR", "way": "up" | "down" | "both", "delay": SECONDS, "loss": SHARE}`, changes a path from then on, and is
answered with `ok`; `delay` and `loss` are optional. ARP passes at once and is never lost. Up is from NEAR to FAR.
"""

import contextlib
import errno
import fcntl
import heapq
import itertools
import json
import os
import random
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_ARP = b"\x08\x06"
_LONGEST = 65_536


@dataclass(slots=True)
class Way:
    """One direction of a path: `delay` in seconds, `loss` from 0 to 1."""

    delay: float = 0.0
    loss: float = 0.0

    def due(self, frame: bytes, now: float, *, lot: Callable[[], float] = random.random) -> float | None:
        """Tell when to hand the frame on, None for never."""
        if frame[12:14] == _ARP:
            return now
        return None if lot() < self.loss else now + self.delay


class Air:
    """All ways, and the frames that are under way."""

    def __init__(self) -> None:
        self.ways: dict[tuple[str, str], Way] = {}
        self._under_way: list[tuple[float, int, int, bytes]] = []
        self._count = itertools.count()

    def take(self, frame: bytes, way: Way, to: int, now: float) -> None:
        """Take a frame that is for the device `to`."""
        due = way.due(frame, now)
        if due is not None:
            heapq.heappush(self._under_way, (due, next(self._count), to, frame))

    def ripe(self, now: float) -> list[tuple[int, bytes]]:
        """Take out what is due, in its order."""
        ripe = []
        while self._under_way and self._under_way[0][0] <= now:
            ripe.append(heapq.heappop(self._under_way)[2:])
        return ripe

    def next_due(self) -> float | None:
        return self._under_way[0][0] if self._under_way else None

    def change(self, told: dict[str, Any]) -> None:
        for name in ("up", "down") if told["way"] == "both" else (told["way"],):
            way = self.ways[told["path"], name]
            way.delay = told.get("delay", way.delay)
            way.loss = told.get("loss", way.loss)


def open_tap(name: str) -> int:
    """Make a TAP device in the process's namespace; it is there until the descriptor is closed."""
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return tap


class Forwarder:
    """The loop: frames from the TAPs, orders from the socket, and the next frame that is due."""

    def __init__(self, orders: Path, pairs: list[tuple[str, str]]) -> None:
        self._air = Air()
        self._selector = selectors.DefaultSelector()
        for near, far in pairs:
            here, there = open_tap(near), open_tap(far)
            self._carry(here, there, (near, "up"))
            self._carry(there, here, (near, "down"))
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(orders))
        listener.listen()
        self._selector.register(listener, selectors.EVENT_READ, lambda: self._obey(listener))

    def _carry(self, source: int, to: int, key: tuple[str, str]) -> None:
        way = self._air.ways[key] = Way()
        self._selector.register(source, selectors.EVENT_READ, lambda: self._read(source, way, to))

    def _read(self, source: int, way: Way, to: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self._air.take(os.read(source, _LONGEST), way, to, time.monotonic())

    def _obey(self, listener: socket.socket) -> None:
        # One order a connection; whoever connects has written it at once.
        with listener.accept()[0] as orderer:
            self._air.change(json.loads(orderer.recv(_LONGEST)))
            orderer.sendall(b"ok\n")

    def run(self) -> None:
        while True:
            due = self._air.next_due()
            for key, _ in self._selector.select(None if due is None else max(0.0, due - time.monotonic())):
                key.data()
            for to, frame in self._air.ripe(time.monotonic()):
                _hand_on(to, frame)


def _hand_on(tap: int, frame: bytes) -> None:
    try:
        os.write(tap, frame)
    except OSError as exc:
        # The device is down, or without a carrier: nobody is there to hear the frame.
        if exc.errno not in {errno.EIO, errno.EAGAIN, errno.ENETDOWN}:
            raise


def main() -> None:
    forwarder = Forwarder(Path(sys.argv[1]), [(near, far) for near, _, far in (p.partition(":") for p in sys.argv[2:])])
    print("ready", flush=True)  # noqa: T201  its only word
    forwarder.run()


if __name__ == "__main__":
    main()

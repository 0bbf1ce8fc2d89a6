"""python -m bench.feed SOCKET RECORDS [--every N] [--open N] [--rate N]: a program on this machine that has readings.

It begins when it has got a line on standard input, and says "done" when its last line was answered. One line in
`every` asks for an answer, and at most `open` lines of those are unanswered: so it goes as fast as the agent keeps its
promises. With `rate` it sends so many records a second.
"""

import argparse
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench.records import FIELDS, STREAM

_TICK = 0.001
_MOST_WAITING = 2_000
_LOOK_AGAIN = 0.01
_WAITING = re.compile(rb'"outbox":{"waiting":(\d+)')


def _line(*, ref: bool) -> bytes:
    said = {"stream": STREAM, "fields": FIELDS}
    return json.dumps(said | {"ref": 1} if ref else said, separators=(",", ":")).encode() + b"\n"


def _chunks(records: int, every: int) -> Iterator[bytes]:
    """Lines, as many at a time as bring one answer."""
    while records:
        count = min(every, records)
        yield _line(ref=False) * (count - 1) + _line(ref=True)
        records -= count


class _Agent:
    """The agent at the other end: it must not refuse a line. `owed` are the answers that have not come yet."""

    def __init__(self, sock: socket.socket) -> None:
        self.owed = 0
        self._socket = sock
        self._came = b""
        self._pause = threading.Event()

    def tell(self, lines: bytes, *, answers: int) -> None:
        self._socket.sendall(lines)
        self.owed += answers

    def take(self) -> None:
        """Wait for answers."""
        came = self._socket.recv(1 << 18)
        if not came or b'"ok":false' in came:
            raise ConnectionError(f"the agent said: {came[:200]!r}")
        self.owed -= came.count(b"\n")
        self._came = self._came[-1000:] + came

    def hold_back(self) -> None:
        """Wait until few records wait for the broker: what is on the disk already has been answered."""
        while True:
            self._came = b""
            self.tell(b'{"get":"status"}\n', answers=1)
            while (found := _WAITING.search(self._came)) is None:
                self.take()
            if int(found[1]) <= _MOST_WAITING:
                return
            self._pause.wait(_LOOK_AGAIN)


def feed(agent: _Agent, records: int, *, every: int, most_open: int) -> None:
    """Send the records as fast as the agent answers."""
    batch, sent = [], 0
    for chunk in _chunks(records, every):
        batch.append(chunk)
        sent += every
        if agent.owed + len(batch) >= most_open:
            agent.tell(b"".join(batch), answers=len(batch))
            batch.clear()
            agent.take()
        if sent % _MOST_WAITING == 0:
            agent.hold_back()
    agent.tell(b"".join(batch), answers=len(batch))
    while agent.owed:
        agent.take()


def feed_evenly(agent: _Agent, records: int, *, rate: float) -> None:
    """Send so many records a second, and wait for the answer to the last."""
    pause = threading.Event()
    begun, sent = time.monotonic(), 0
    while sent < records:
        pause.wait(max(0.0, begun + sent / rate - time.monotonic()))
        count = min(max(1, int(rate * _TICK)), records - sent)
        sent += count
        agent.tell(_line(ref=False) * (count - 1) + _line(ref=sent == records), answers=sent == records)
    while agent.owed:
        agent.take()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("socket", type=Path)
    parser.add_argument("records", type=int)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--open", type=int, default=1000)
    parser.add_argument("--rate", type=float)
    given = parser.parse_args()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(given.socket))
        agent = _Agent(sock)
        print("ready", flush=True)
        sys.stdin.readline()
        if given.rate is None:
            feed(agent, given.records, every=given.every, most_open=given.open)
        else:
            feed_evenly(agent, given.records, rate=given.rate)
        print("done", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()

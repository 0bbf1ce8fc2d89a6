"""What the tests do with a machine on which roamd runs: feed it, and see what reaches a subscriber."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from tests.system.container import Container, Running

Name = tuple[int, int]
"""(epoch, seq) of an event."""

_FEEDER = """
import itertools, json, socket, sys
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect("/run/roamd/roamd.sock")
    lines = sock.makefile("rw")
    for n in range(int(sys.argv[1])) if len(sys.argv) > 1 else itertools.count():
        print(json.dumps({"event": "test", "fields": {"n": n}, "ref": n}), file=lines, flush=True)
        answer = json.loads(lines.readline())
        assert answer["ok"], answer
        print("accepted", answer["epoch"], answer["seq"], flush=True)
"""


def feed(machine: Container, count: int) -> list[Name]:
    """Hand in that many events, and return their names: each was accepted, and is on the disk."""
    return names(machine.run("python3", "-c", _FEEDER, str(count)).splitlines())


@contextmanager
def feeding(machine: Container) -> Iterator[Running]:
    """Hand in events one after the other until the end of the block; the lines are for `names`."""
    with machine.running("python3", "-c", _FEEDER) as feeder:
        yield feeder


def names(lines: list[str]) -> list[Name]:
    words = [line.split() for line in lines]
    return [(int(epoch), int(seq)) for _, epoch, seq in (word for word in words if len(word) == 3)]


@contextmanager
def witness(machine: Container) -> Iterator[Running]:
    """A subscriber to the events whose session the broker keeps: what comes while it is away comes later."""
    with machine.running(
        # Into a pipe it would write whole blocks, and keep what `-d` tells for long.
        *("stdbuf", "-oL", "mosquitto_sub", "-V", "5", "-i", "witness", "-c", "-x", "3600"),
        *("-q", "1", "-d", "-v", "-t", "device/rover/event/+"),
    ) as subscriber:
        subscriber.line(r"^Subscribed \(mid")
        yield subscriber


def seen(subscriber: Running) -> set[Name]:
    """The names of the events that have arrived."""
    found = set()
    for line in subscriber.lines:
        _, brace, rest = line.partition("{")
        if line.startswith("device/rover/event/") and brace:
            event = json.loads(brace + rest)
            found.add((event["epoch"], event["seq"]))
    return found


def all_arrive(subscriber: Running, wanted: list[Name]) -> None:
    """Wait until all of these have arrived."""
    for epoch, seq in wanted:
        if (epoch, seq) not in seen(subscriber):
            subscriber.line(f'"epoch":{epoch},"seq":{seq},', within=60)

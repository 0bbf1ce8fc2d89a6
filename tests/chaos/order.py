"""The order in which records were first sent: as much of the promise (contract, section 4) as a broker can know.

A record that comes for the first time behind a later one may have been sent before, over a connection that broke. Then
it was handed in before that connection's end. And that connection is older than the one which brought the later record,
for what comes over one connection was sent in that order; or it is the same one, if the record was in the fresh lane
then and is in the backlog now.
"""

from bisect import bisect
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from tests.chaos.ledger import Handed
from tests.support.outbox_file import Identity
from tests.support.script import Received
from tests.support.subscriber import records

UNNOTICED = 0.3
"""Seconds for which the agent, on a busy machine, may still send into a connection that the broker has ended."""


class Place(NamedTuple):
    epoch: int
    seq: int
    connection: int
    """The one that brought it."""


class Lane:
    """One lane of one stream, or both in one: the topic of an event does not tell its lane."""

    def __init__(self, *, mixed: bool) -> None:
        self._orders: list[list[Place]] = []
        self._most = 2 if mixed else 1

    def put(self, place: Place) -> Place | None:
        """Put it behind those that were there; where that cannot be, return what was there before and is later."""
        fitting = [order for order in self._orders if order[-1] < place]
        if fitting:
            max(fitting, key=lambda order: order[-1]).append(place)
        elif len(self._orders) < self._most:
            self._orders.append([place])
        else:
            later = (order[bisect(order, place)] for order in self._orders)
            return max(later, key=lambda other: other.connection)
        return None


def disorder(publishes: Iterable[Received], handed: Mapping[int, Handed], ends: Mapping[int, float]) -> Iterator[str]:
    """What was first sent too late. `ends` tells when each connection ended, monotonic."""
    seen: set[Identity] = set()
    lanes: dict[tuple[str, bool], Lane] = {}
    for publish in publishes:
        backfill = publish.topic.endswith("/backfill")
        for row in records([publish]):
            if row[:3] in seen:
                continue
            seen.add(row[:3])
            event = row.stream.startswith("event/")
            lane = lanes.setdefault((row.stream, backfill), Lane(mixed=event))
            place = Place(row.epoch, row.seq, publish.connection)
            if (later := lane.put(place)) is None:
                continue
            last = min(publish.connection - 1, later.connection if backfill or event else later.connection - 1)
            at = handed[row.payload["n"]].at
            if not any(number <= last and at < end + UNNOTICED for number, end in ends.items()):
                lane_name = "backfill" if backfill else "fresh"
                yield f"{row.stream} ({lane_name}): {place} was first sent after {later}"

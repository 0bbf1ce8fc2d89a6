"""What the subscriber really received, counted by (stream, epoch, seq). Pure."""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

Identity = tuple[str, int, int]


@dataclass(slots=True)
class Received:
    """What arrived of one stream. `rate` needs the times of arrival, in monotonic seconds."""

    since: float
    records: int = 0
    latest: dict[str, Any] = field(default_factory=dict)
    backfilled: int = 0
    arrivals: list[float] = field(default_factory=list)

    def rate(self, now: float, over: float = 10.0) -> float:
        """Return records a second over the last seconds, fewer where the stream is younger."""
        self.arrivals = [at for at in self.arrivals if now - at < over]
        return len(self.arrivals) / min(over, max(1.0, now - self.since))


class Tally:
    """Counts the records in what a subscriber to `{prefix}/#` receives."""

    def __init__(self, prefix: str) -> None:
        self.streams: dict[str, Received] = {}
        self.status = ""
        self._prefix = prefix
        self._seen: Counter[Identity] = Counter()

    @property
    def delivered(self) -> int:
        """Records that arrived, each counted once."""
        return len(self._seen)

    @property
    def doubled(self) -> int:
        """Arrivals beyond the first of each record."""
        return self._seen.total() - len(self._seen)

    def take(self, topic: str, payload: bytes, now: float) -> None:
        """Count one message."""
        match topic.removeprefix(f"{self._prefix}/").split("/"):
            case ["telemetry", stream]:
                self._count(stream, [json.loads(payload)], now, backfilled=False)
            case ["telemetry", stream, "backfill"]:
                self._count(stream, json.loads(payload), now, backfilled=True)
            case ["event", name]:
                self._count(f"event/{name}", [json.loads(payload)], now, backfilled=False)
            case ["status"]:
                self.status = json.loads(payload)["status"]

    def _count(self, stream: str, records: list[dict[str, Any]], now: float, *, backfilled: bool) -> None:
        received = self.streams.setdefault(stream, Received(since=now))
        for record in records:
            self._seen[stream, record["epoch"], record["seq"]] += 1
            received.records += 1
            received.backfilled += backfilled
            received.arrivals.append(now)
        received.latest = records[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How it went, in records: what the agent says that it accepted, against what arrived."""

    accepted: int
    delivered: int
    doubled: int
    waiting: int

    @property
    def lost(self) -> int:
        """Records that were accepted, and neither arrived nor wait."""
        return max(0, self.accepted - self.delivered - self.waiting)

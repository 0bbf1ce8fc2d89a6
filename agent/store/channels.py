"""The streams as the outbox sees them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from agent import topics
from agent.dead_band import DeadBand
from agent.model import Delivery, Record, Stream
from agent.store.transaction import Counts

_MOST_STREAMS = 1_000
_PRIORITY_OF_EVENTS = 7


@dataclass(slots=True, kw_only=True)
class Channel:
    """One stream.

    `counts` is what its row in the table `stream` says; `seq` the last number given in this epoch; `unwritten` how many
    of its records memory alone holds; `dropped` how many `live` records nobody got; `last` its newest record;
    `sent` the highest epoch and number that the broker has taken.
    """

    stream: Stream
    counts: Counts
    dead_band: DeadBand | None
    seq: int = 0
    unwritten: int = 0
    dropped: int = 0
    last: Record | None = None
    sent: tuple[int, int] = (0, 0)

    @property
    def waiting(self) -> int:
        """Records that were accepted and have not ended."""
        return self.counts.waiting + self.unwritten

    def persisted(self) -> Counts:
        """Return the counts as they are once what memory alone holds is lost."""
        return replace(self.counts, accepted=self.counts.accepted - self.unwritten)


class Channels:
    """All streams, by name and by the number that rows have. Streams that the settings do not name are as `default`."""

    def __init__(self, streams: Iterable[Stream], counts: Iterable[Counts], *, default: Stream) -> None:
        self._streams = {stream.name: stream for stream in streams}
        self._default = default
        self._by_name: dict[str, Channel] = {}
        self._by_id: dict[int, Channel] = {}
        for known in counts:
            self._add(known)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[Channel]:
        return iter(self._by_name.values())

    def __getitem__(self, name: str) -> Channel:
        """Return the stream of this name, which is made where it is new. Raises ValueError at too many."""
        channel = self._by_name.get(name)
        if channel is not None:
            return channel
        if len(self._by_name) >= _MOST_STREAMS and not topics.is_document(name):
            raise ValueError(f"cannot open stream {name}: there are {_MOST_STREAMS} streams already")
        return self._add(Counts(id=max(self._by_id, default=0) + 1, name=name))

    def redeliver(self, name: str, delivery: Delivery) -> None:
        """Have a stream's records delivered another way from now on. Raises ValueError where that cannot be."""
        channel = self[name]
        if delivery is Delivery.LIVE and channel.stream.batch > 1:
            raise ValueError("batch needs delivery stored or synced")
        qos = 0 if delivery is Delivery.LIVE else max(1, channel.stream.qos)
        channel.stream = replace(channel.stream, delivery=delivery, qos=qos)

    def numbered(self, number: int) -> Channel:
        """Return the stream that rows call by this number."""
        return self._by_id[number]

    def _add(self, counts: Counts) -> Channel:
        stream = self._streams.get(counts.name) or self._unnamed(counts.name)
        dead_band = DeadBand(stream.on_change, heartbeat=stream.heartbeat) if stream.on_change else None
        channel = Channel(stream=stream, counts=counts, dead_band=dead_band)
        self._by_name[counts.name] = self._by_id[counts.id] = channel
        return channel

    def _unnamed(self, name: str) -> Stream:
        if topics.is_telemetry(name):
            return replace(self._default, name=name)
        return Stream(name=name, delivery=Delivery.SYNCED, priority=_PRIORITY_OF_EVENTS)

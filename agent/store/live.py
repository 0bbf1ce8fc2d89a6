"""The newest record of each `live` stream."""

from collections.abc import Callable

from agent.model import Record
from agent.store.channels import Channels


class Live:
    """Holds one record a stream; what a newer one replaces, or grows old here, counts as dropped."""

    def __init__(self, channels: Channels, is_fresh: Callable[[Record, float], bool]) -> None:
        self._channels = channels
        self._is_fresh = is_fresh
        self._newest: dict[str, Record] = {}

    def push(self, record: Record) -> None:
        """Take the newest record of its stream."""
        name = record.stream.name
        if self._newest.pop(name, None) is not None:
            self.drop(record)
        self._newest[name] = record

    def next(self, now: float) -> Record | None:
        """Return a record that is fresh still, and forget it."""
        while self._newest:
            record = self._newest.pop(next(iter(self._newest)))
            if self._is_fresh(record, now):
                return record
            self.drop(record)
        return None

    def drop(self, record: Record) -> None:
        """Count one that nobody gets."""
        self._channels[record.stream.name].dropped += 1

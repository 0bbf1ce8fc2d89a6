"""Records as PUBLISH messages: on which topic, how many together, in which form. Pure."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from agent import encode, topics
from agent.lanes import Lane, Room
from agent.model import Limits, Message, Record, Stream
from agent.topics import Topics

_ARRAY_RECORDS = 500
_ARRAY_BYTES = 16 * 1024
_LEAST_ARRAY_BYTES = 2 * 1024
_ARRAYS_IN_FLIGHT = 4
_COMPRESSES_TO = 4  # of JSON arrays, at least


@dataclass(slots=True, kw_only=True)
class Packing:
    """How records are packed for the server whose `limits` these are."""

    topics: Topics
    is_compressed: bool
    limits: Limits

    def fresh_room(self, pace: int) -> Room:
        """Return how much one PUBLISH of the fresh lane may hold; `pace` is how many bytes may be in flight."""
        return Room(records=_ARRAY_RECORDS, size=self._size(pace))

    def backlog_room(self, stream: Stream, pace: int) -> Room:
        """Return how much one PUBLISH of the backlog may hold. Events go alone."""
        if not topics.is_telemetry(stream.name):
            return Room(records=1, size=0)
        return Room(records=_ARRAY_RECORDS, size=self._size(pace) * (_COMPRESSES_TO if self.is_compressed else 1))

    def _size(self, pace: int) -> int:
        size = max(_LEAST_ARRAY_BYTES, min(_ARRAY_BYTES, pace // _ARRAYS_IN_FLIGHT))
        largest = self.limits.maximum_packet_size
        return size if largest is None else min(size, largest // 2)

    def message(self, records: Sequence[Record], lane: Lane) -> Message:
        """Return the message of records of one stream (contract, section 2)."""
        stream = records[0].stream
        if stream.name == topics.RESULT:
            topic, correlation_data, body = encode.opened(records[0].tail)
            return Message(
                topic=topic, payload=body, qos=min(1, self.limits.maximum_qos), correlation_data=correlation_data
            )
        if lane is Lane.FRESH or not topics.is_telemetry(stream.name):
            return Message(
                topic=self.topics.fresh(stream.name),
                payload=encode.array(records) if len(records) > 1 else encode.record(records[0]),
                qos=min(stream.qos, self.limits.maximum_qos),
                retain=stream.retain and self.limits.retain_available,
            )
        array = encode.array(records)
        if self.is_compressed:
            return Message(
                topic=self.topics.backfill_compressed(stream.name),
                payload=zlib.compress(array),
                content_type="application/zlib",
            )
        return Message(topic=self.topics.backfill(stream.name), payload=array)

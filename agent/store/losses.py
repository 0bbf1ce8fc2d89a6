"""What is told of records that will never arrive (contract, sections 2 and 3). Pure."""

from collections.abc import Iterable, Iterator

from agent import encode
from agent.model import Record


def reports(records: Iterable[Record], *, reason: str, ts: int) -> Iterator[bytes]:
    """Iterate over `loss` documents: one for each stream and epoch, with the range of its numbers and their count."""
    ranges: dict[tuple[str, int], list[int]] = {}
    for record in records:
        if record.seq > 0:
            ranges.setdefault((record.stream.name, record.epoch), []).append(record.seq)
    for (stream, epoch), numbers in ranges.items():
        yield encode.document(
            {
                "ts": ts,
                "stream": stream,
                "epoch": epoch,
                "first_seq": min(numbers),
                "last_seq": max(numbers),
                "count": len(numbers),
                "reason": reason,
            }
        )

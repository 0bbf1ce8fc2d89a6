"""One transaction of the outbox: what it writes, the counts that follow from it, and what is true once it is done."""

from dataclasses import dataclass, field

from agent import clock
from agent.model import Record
from agent.store.channels import Channel
from agent.store.transaction import Changes


@dataclass(slots=True, kw_only=True)
class Commit:
    """`written` are the records that have a row then, `ended` the rows that memory need not know any more."""

    changes: Changes = field(default_factory=Changes)
    written: list[Record] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)

    def insert(self, channel: Channel, record: Record) -> None:
        """Give a record its row."""
        channel.counts.waiting += 1
        channel.counts.waiting_bytes += len(record.tail)
        self.written.append(record)
        taken_ms = int(record.taken * 1000)
        self.changes.insert.append(
            (record.row, channel.counts.id, record.epoch, record.seq, record.ts, taken_ms, record.tail)
        )

    def delete(self, channel: Channel, record: Record) -> None:
        """Delete the row of a record that is delivered."""
        self._end(channel, record)
        self.changes.delete.append(record.row)

    def quarantine(self, channel: Channel, record: Record, code: int, reason: str) -> None:
        """Move the row of a record that was refused for good."""
        self._end(channel, record)
        channel.counts.quarantined += 1
        self.changes.quarantine.append((record.row, code, reason, clock.unix_ms()))

    def acknowledge(self, channel: Channel, record: Record) -> None:
        """Keep the row of a record that the broker has until the controller has it too."""
        self._end(channel, record)
        channel.counts.unconfirmed += 1
        self.changes.states.append((ACKNOWLEDGED, record.row))

    def confirm(self, channel: Channel, row: int) -> None:
        """Delete a row that was kept for the controller, which has it."""
        channel.counts.unconfirmed -= 1
        channel.counts.delivered += 1
        self.changes.delete.append(row)

    def send_again(self, channel: Channel, row: int, size: int) -> None:
        """Have a row wait again that was kept for the controller, which lacks it."""
        channel.counts.unconfirmed -= 1
        channel.counts.waiting += 1
        channel.counts.waiting_bytes += size
        self.changes.states.append((WAITING, row))

    def _end(self, channel: Channel, record: Record) -> None:
        channel.counts.waiting -= 1
        channel.counts.waiting_bytes -= len(record.tail)
        self.ended.append(record.row)


WAITING, ACKNOWLEDGED = 0, 1
"""The column `outbox.state`."""

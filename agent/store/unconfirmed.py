"""Records that the broker has, and of which the controller has not said yet that it has them.

With `outbox.confirm = "controller"` a PUBACK does not end a record: its row stays, in the state 1. Before the
controller is asked, those rows come into the state 3; its answer ends the ones that it has, and has the others sent
again.
"""

from collections.abc import Iterable, Iterator, Sequence

from agent.model import Record
from agent.store.channels import Channel, Channels
from agent.store.commit import WAITING, Commit
from agent.store.database import Database

ASK = "UPDATE outbox SET state = 3 WHERE state = 1"
FORGET_ASKING = "UPDATE outbox SET state = 1 WHERE state = 3"
_OF_STREAM = "SELECT row, epoch, seq, length(tail) FROM outbox WHERE stream = ? AND state = 3 LIMIT 5000"

Row = tuple[int, int, int, int]
"""Its number, epoch, seq, and the bytes of its tail."""


class Unconfirmed:
    """What became of rows that were acknowledged, until that is on the disk.

    `acknowledged` are rows that memory alone holds so far: they are written with that state.
    """

    def __init__(self, database: Database, channels: Channels) -> None:
        self.acknowledged: set[int] = set()
        self._database = database
        self._channels = channels
        self._marked: list[Record] = []
        self._confirmed: dict[int, Channel] = {}
        self._again: dict[int, tuple[Channel, int, Record]] = {}

    def keep(self, record: Record, *, is_on_disk: bool) -> None:
        """Keep an acknowledged record."""
        if is_on_disk:
            self._marked.append(record)
        else:
            self.acknowledged.add(record.row)

    def inserted(self, record: Record) -> None:
        """Note that a record gets its row: if it was acknowledged before, it is a kept one at once."""
        if record.row in self.acknowledged:
            self.acknowledged.discard(record.row)
            self._marked.append(record)

    async def answered(self, stream: str, ranges: Sequence[Sequence[int]]) -> int:
        """Take what the controller says that it has of a stream; return how many it lacks. Raises StorageError."""
        channel = self._channels[stream]
        lacking = 0
        for row in await self._asked(channel):
            number, epoch, seq, size = row
            if any(of == epoch and first <= seq <= last for of, first, last in ranges):
                self._confirmed[number] = channel
            else:
                place = Record(row=number, stream=channel.stream, epoch=epoch, seq=seq, ts=0, taken=0.0, tail=b"")
                self._again[number] = channel, size, place
                lacking += 1
        return lacking

    async def _asked(self, channel: Channel) -> Iterator[Row]:
        # What is answered may get to the disk while this reads, and what was read may be from before.
        answered = self._confirmed.keys() | self._again.keys()
        rows = await self._database.rows(_OF_STREAM, (channel.counts.id,))
        return (row for row in rows if row[0] not in answered)

    def plan(self, commit: Commit) -> Iterable[Channel]:
        """Add what is to be written; return the streams whose counts have changed."""
        changed = [self._channels[record.stream.name] for record in self._marked]
        for channel, record in zip(changed, self._marked, strict=True):
            commit.acknowledge(channel, record)
        for row, channel in self._confirmed.items():
            commit.confirm(channel, row)
        for row, (channel, size, _) in self._again.items():
            commit.send_again(channel, row, size)
        self._marked = []
        return [*changed, *self._confirmed.values(), *(channel for channel, *_ in self._again.values())]

    def committed(self, commit: Commit) -> list[Record]:
        """Note that it is on the disk; return what is to be sent again, without content: where the rows are."""
        for row in commit.changes.delete:
            self._confirmed.pop(row, None)
        return [self._again.pop(row)[2] for state, row in commit.changes.states if state == WAITING]

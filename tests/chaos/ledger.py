"""What was handed to the agent, and what it answered for."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.support.outbox_file import Identity


@dataclass(frozen=True, slots=True, kw_only=True)
class Handed:
    """A record on its way into the agent; `at` is monotonic, before the first byte of it was written."""

    stream: str
    number: int
    filling: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A record that the agent answered with `ok`; `at` is when the answer was read."""

    number: int
    at: float


@dataclass(slots=True)
class Ledger:
    """Shared by all feeders of a course: a record is known by its number, which no other record has."""

    handed: dict[int, Handed] = field(default_factory=dict)
    answered: dict[Identity, Answered] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    """What the agent answered and never should have."""

    def hand(self, stream: str, *, size: int, at: float) -> Handed:
        record = Handed(stream=stream, number=len(self.handed) + 1, filling="x" * size, at=at)
        self.handed[record.number] = record
        return record

    def note(self, answer: Mapping[str, object], *, at: float) -> None:
        number, epoch, seq = answer.get("ref"), answer.get("epoch"), answer.get("seq")
        if answer.get("ok") is not True or not (isinstance(number, int) and number in self.handed):
            self.wrong.append(f"the agent answered {answer}")
            return
        assert isinstance(epoch, int)
        assert isinstance(seq, int)
        identity = (self.handed[number].stream, epoch, seq)
        if identity in self.answered:
            self.wrong.append(f"{identity} was answered for {self.answered[identity].number} and for {number}")
        self.answered[identity] = Answered(number=number, at=at)

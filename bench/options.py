"""What a run is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`records` are those of a steady run, `rows` those that wait in the outbox; times are in seconds."""

    repeat: int
    records: int
    rows: Sequence[int]
    offline_for: float
    idle_for: float


def options(*, repeat: int, quick: bool, full: bool) -> Options:
    """Return what is asked for: `quick` only shows that everything works, `full` takes the largest outbox too."""
    if quick:
        return Options(repeat=repeat, records=5_000, rows=(10_000,), offline_for=2.0, idle_for=5.0)
    rows = (100_000, 1_000_000) if full else (100_000,)
    return Options(repeat=repeat, records=100_000, rows=rows, offline_for=20.0, idle_for=60.0)

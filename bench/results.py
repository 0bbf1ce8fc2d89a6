"""What the runs have found: figures by benchmark, case and contender, one set for each repetition."""

from collections.abc import Iterator
from statistics import median

from bench.measure import Figures

Key = tuple[str, str, str]
"""Benchmark, case (such as the broker's limits), contender."""


class Results:
    """Keeps the figures of all runs, in their order, so that the nth of each contender belong together."""

    def __init__(self) -> None:
        self.runs: dict[Key, list[Figures]] = {}
        self.skipped: dict[tuple[str, str], str] = {}

    def add(self, benchmark: str, case: str, contender: str, figures: Figures) -> None:
        """Keep what one run found."""
        self.runs.setdefault((benchmark, case, contender), []).append(figures)

    def skip(self, benchmark: str, contender: str, why: str) -> None:
        """Note that a contender could not take part."""
        self.skipped[benchmark, contender] = why

    def of(self, benchmark: str) -> Iterator[tuple[str, str, list[Figures]]]:
        """Iterate over case, contender and runs of a benchmark."""
        for (name, case, contender), runs in self.runs.items():
            if name == benchmark:
                yield case, contender, runs

    def median(self, key: Key, figure: str) -> float | None:
        """Return the median of a figure over the repetitions; None where it was not measured."""
        found = [run[figure] for run in self.runs.get(key, ()) if figure in run]
        return median(found) if found else None

    def ratio(self, ours: Key, theirs: Key, figure: str) -> float | None:
        """Return the median of the ratios of runs that followed each other."""
        pairs = zip(self.runs.get(ours, ()), self.runs.get(theirs, ()), strict=False)
        found = [one[figure] / other[figure] for one, other in pairs if other.get(figure)]
        return median(found) if found else None

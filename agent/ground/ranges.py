"""Ranges of sequence numbers: which are here, and which are not. Pure.

A run is (first, last), both of them in it. Where several are given or returned they are in order and do not overlap,
unless it is said otherwise.
"""

from collections.abc import Iterable, Sequence

Run = tuple[int, int]


def runs(numbers: Iterable[int]) -> list[Run]:
    """Return the numbers, in any order, as the fewest runs."""
    found: list[Run] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def hull(run: Run, near: Iterable[Run]) -> Run:
    """Return the one run that a run makes with those that overlap or touch it."""
    firsts, lasts = zip(run, *near, strict=True)
    return min(firsts), max(lasts)


def without(whole: Iterable[Run], taken: Iterable[Run]) -> list[Run]:
    """Return what is left of runs when others, in any order and overlapping or not, are taken out."""
    left: list[Run] = []
    holes = _joined(taken)
    place = 0
    for first, last in whole:
        begin = first
        while place < len(holes) and holes[place][0] <= last:
            hole_first, hole_last = holes[place]
            if hole_first > begin:
                left.append((begin, hole_first - 1))
            begin = max(begin, hole_last + 1)
            if hole_last > last:  # it reaches into the next run
                break
            place += 1
        if begin <= last:
            left.append((begin, last))
    return left


def _joined(some: Iterable[Run]) -> list[Run]:
    found: list[Run] = []
    for first, last in sorted(some):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found


def gaps(here: Sequence[Run]) -> list[Run]:
    """Return what is missing from 1 up to the highest number that is here."""
    return without([(1, here[-1][1])], here) if here else []


def size(some: Iterable[Run]) -> int:
    """Return how many numbers there are in runs."""
    return sum(last - first + 1 for first, last in some)

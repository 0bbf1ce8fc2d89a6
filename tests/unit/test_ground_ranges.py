"""Ranges of sequence numbers, against sets of numbers."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from agent.ground.ranges import Run, gaps, hull, runs, size, without

numbers = st.sets(st.integers(1, 60))
some_runs = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 12)).map(lambda pair: (pair[0], sum(pair))))


def members(some: list[Run]) -> set[int]:
    return {number for first, last in some for number in range(first, last + 1)}


def assert_merged(some: list[Run]) -> None:
    assert all(first <= last for first, last in some)
    assert all(before[1] + 1 < after[0] for before, after in itertools.pairwise(some))


@given(numbers)
def test_runs_hold_just_the_numbers_and_are_merged(here: set[int]) -> None:
    assert members(runs(here)) == here
    assert_merged(runs(here))
    assert size(runs(here)) == len(here)


@given(numbers, some_runs)
def test_without_takes_out_runs_in_any_order_that_may_overlap(here: set[int], taken: list[Run]) -> None:
    left = without(runs(here), taken)
    assert members(left) == here - members(taken)
    assert_merged(left)


@given(numbers)
def test_gaps_are_what_is_missing_from_1_to_the_highest(here: set[int]) -> None:
    assert members(gaps(runs(here))) == set(range(1, max(here, default=0) + 1)) - here


def test_a_hull_reaches_over_all_its_runs() -> None:
    assert hull((5, 6), []) == (5, 6)
    assert hull((5, 6), [(1, 4), (7, 9)]) == (1, 9)
    assert hull((1, 9), [(2, 3)]) == (1, 9)

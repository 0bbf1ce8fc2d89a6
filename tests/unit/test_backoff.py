import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.backoff import Backoff, Strategy

FAILURES = st.integers(min_value=0, max_value=100_000)


@given(failures=FAILURES, seed=st.integers())
def test_full_jitter_lies_between_nothing_and_the_capped_exponential(failures: int, seed: int) -> None:
    backoff = Backoff(base=1.0, cap=30.0)
    wait = backoff.wait(failures, uniform=random.Random(seed).uniform)
    assert 0.0 <= wait <= min(30.0, 2.0 ** min(failures, 10))


def test_full_jitter_spreads_a_thousand_robots_over_the_whole_wait() -> None:
    backoff = Backoff(base=1.0, cap=30.0)
    uniform = random.Random(1).uniform
    waits = sorted(backoff.wait(10, uniform=uniform) for _ in range(1000))
    per_second = [sum(second <= wait < second + 1 for wait in waits) for second in range(30)]
    assert max(per_second) < 60
    assert min(per_second) > 10


@given(failures=FAILURES)
def test_exponential_doubles_up_to_its_cap_and_never_overflows(failures: int) -> None:
    backoff = Backoff(strategy=Strategy.EXPONENTIAL, base=0.5, cap=30.0)
    assert backoff.wait(failures, uniform=random.uniform) == min(30.0, 0.5 * 2.0 ** min(failures, 30))


@given(failures=FAILURES)
def test_exponential_jitter_adds_at_most_its_jitter(failures: int) -> None:
    plain = Backoff(strategy=Strategy.EXPONENTIAL, base=1.0, cap=30.0)
    jittered = Backoff(strategy=Strategy.EXPONENTIAL_JITTER, base=1.0, cap=30.0, jitter=0.5)
    least = plain.wait(failures, uniform=random.uniform)
    assert least <= jittered.wait(failures, uniform=random.uniform) <= least + 0.5


@pytest.mark.parametrize("failures", [0, 1, 5000])
def test_fixed_never_grows(failures: int) -> None:
    assert Backoff(strategy=Strategy.FIXED, base=2.0).wait(failures, uniform=random.uniform) == 2.0

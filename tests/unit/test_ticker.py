from hypothesis import given
from hypothesis import strategies as st

from agent.ticker import missed, next_tick

INTERVALS = st.floats(min_value=0.05, max_value=86_400)
TIMES = st.floats(min_value=0, max_value=1e7)
LATENESS = st.floats(min_value=0, max_value=1e6)


def test_a_tick_in_time_is_followed_by_the_next_point_of_the_grid() -> None:
    assert next_tick(scheduled=100.0, now=100.2, interval=1.0) == 101.0


def test_ticks_that_were_missed_are_skipped() -> None:
    assert next_tick(scheduled=100.0, now=103.7, interval=1.0) == 104.0
    assert missed(scheduled=100.0, tick=104.0, interval=1.0) == 3


def test_a_tick_that_is_due_at_this_very_moment_was_missed() -> None:
    assert next_tick(scheduled=100.0, now=102.0, interval=1.0) == 103.0


def test_a_tick_is_never_due_twice_though_the_timer_fired_early() -> None:
    assert next_tick(scheduled=100.0, now=99.999, interval=1.0) == 101.0


@given(scheduled=TIMES, late=LATENESS, interval=INTERVALS)
def test_the_next_tick_is_in_the_future_and_not_more_than_an_interval_away(
    scheduled: float, late: float, interval: float
) -> None:
    now = scheduled + late
    tick = next_tick(scheduled=scheduled, now=now, interval=interval)
    assert now < tick <= now + interval * (1 + 1e-6)


@given(scheduled=TIMES, late=LATENESS, interval=INTERVALS)
def test_every_tick_lies_on_the_grid(scheduled: float, late: float, interval: float) -> None:
    tick = next_tick(scheduled=scheduled, now=scheduled + late, interval=interval)
    steps = (tick - scheduled) / interval
    assert abs(steps - round(steps)) < 1e-3
    assert missed(scheduled=scheduled, tick=tick, interval=interval) == round(steps) - 1


def test_a_hundred_thousand_ticks_do_not_drift() -> None:
    tick = 0.0
    for _ in range(100_000):
        tick = next_tick(scheduled=tick, now=tick + 0.03, interval=0.1)
    assert abs(tick - 10_000.0) < 0.001

import math

from hypothesis import given
from hypothesis import strategies as st

from agent.dead_band import DeadBand
from agent.model import Fields


def passed(band: DeadBand, *samples: Fields, every: float = 1.0) -> list[int]:
    """The indexes of the samples that pass, taken so many seconds apart."""
    return [index for index, fields in enumerate(samples) if band.passes(fields, index * every)]


def test_the_first_sample_passes_and_then_what_moved_by_more_than_its_band() -> None:
    band = DeadBand({"t": 1.0}, heartbeat=0)
    assert passed(band, {"t": 20.0}, {"t": 20.9}, {"t": 21.0}, {"t": 21.1}, {"t": 20.2}, {"t": 20.0}) == [0, 3, 5]


def test_a_slow_drift_is_held_against_the_last_that_passed_not_the_last_that_came() -> None:
    band = DeadBand({"t": 1.0}, heartbeat=0)
    assert passed(band, *[{"t": 0.4 * step} for step in range(8)]) == [0, 3, 6]


def test_a_field_without_a_band_is_not_looked_at() -> None:
    band = DeadBand({"t": 1.0}, heartbeat=0)
    assert passed(band, {"t": 1, "noise": 5}, {"t": 1, "noise": 900}, {"t": 1}) == [0]


def test_a_star_stands_for_all_fields_without_a_band_of_their_own() -> None:
    band = DeadBand({"t": 10.0, "*": 0.0}, heartbeat=0)
    assert passed(band, {"t": 1, "on": False}, {"t": 5, "on": False}, {"t": 5, "on": True}, {"t": 5}) == [0, 2, 3]


def test_what_is_no_number_passes_when_it_differs() -> None:
    band = DeadBand({"mode": 5.0}, heartbeat=0)
    modes: list[Fields] = [{"mode": mode} for mode in ("auto", "auto", "manual", None, None, 1, True, "1")]
    assert passed(band, *modes) == [0, 2, 3, 5, 6, 7]


def test_a_field_that_comes_or_goes_passes() -> None:
    band = DeadBand({"t": 100.0}, heartbeat=0)
    assert passed(band, {"t": 1}, {}, {}, {"t": 1}) == [0, 1, 3]


def test_nan_and_infinity_are_values_like_others() -> None:
    band = DeadBand({"t": 1.0}, heartbeat=0)
    values = (math.nan, math.nan, 1.0, math.inf, math.inf, -math.inf)
    assert passed(band, *[{"t": value} for value in values]) == [0, 2, 3, 5]


def test_an_integer_beyond_the_floats_is_compared_all_the_same() -> None:
    band = DeadBand({"t": 1.0}, heartbeat=0)
    assert passed(band, {"t": 10**400}, {"t": 10**400}, {"t": 10**400 + 1}, {"t": 5}, {"t": -(10**400)}) == [0, 2, 3, 4]


def test_a_sample_passes_at_the_heartbeat_and_that_is_counted_from_the_last_that_passed() -> None:
    band = DeadBand({"t": 1.0}, heartbeat=3.0)
    values = (0.0, 0.0, 5.0, 5.0, 5.0, 5.0, 5.0)
    assert passed(band, *[{"t": value} for value in values]) == [0, 2, 5]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0, 1e3))
def test_whoever_holds_the_last_that_passed_is_never_off_by_more_than_the_band(
    values: list[float], width: float
) -> None:
    band = DeadBand({"t": width}, heartbeat=0)
    known = math.nan
    for value in values:
        if band.passes({"t": value}, 0.0):
            known = value
        assert abs(value - known) <= width

from agent.pace import Pace, Rate


def drained(pace: Pace, *, bytes_per_second: float, rounds: int, base: float = 0.02) -> list[float]:
    """The delays of full windows, one after another, over a link of that speed."""
    delays = []
    now = 0.0
    for number in range(rounds):
        pace.sent(number, now)
        pace.reached()
        delays.append(base + pace.limit / bytes_per_second)
        now += delays[-1]
        pace.answered(now)
    return delays


def test_over_a_thin_link_acknowledgements_soon_take_no_longer_than_about_a_second() -> None:
    pace = Pace()
    delays = drained(pace, bytes_per_second=32_000, rounds=50)
    assert max(delays[5:]) < 1.5
    assert pace.limit >= 8_000


def test_over_a_fat_link_the_limit_is_soon_as_large_as_it_gets() -> None:
    pace = Pace()
    drained(pace, bytes_per_second=100e6, rounds=5)
    assert pace.limit == 256 * 1024


def test_a_limit_that_held_nothing_back_does_not_grow() -> None:
    pace = Pace()
    before = pace.limit
    for number in range(10):
        pace.sent(number, 0.0)
        pace.answered(0.001)
    assert pace.limit == before


def test_a_link_that_becomes_fast_again_is_used_again() -> None:
    pace = Pace()
    drained(pace, bytes_per_second=8_000, rounds=20)
    assert pace.limit < 16_000
    drained(pace, bytes_per_second=100e6, rounds=20)
    assert pace.limit == 256 * 1024


def test_a_long_way_is_no_queue() -> None:
    pace = Pace()
    drained(pace, bytes_per_second=100e6, rounds=20, base=0.7)
    assert pace.limit == 256 * 1024


def test_something_may_always_be_sent_however_slow_the_link_is() -> None:
    pace = Pace()
    drained(pace, bytes_per_second=10, rounds=20)
    assert pace.limit == 4 * 1024


def test_one_parcel_at_a_time_is_timed() -> None:
    pace = Pace()
    pace.sent(7, 1.0)
    pace.sent(8, 2.0)
    assert pace.timed == 7
    pace.answered(3.0)
    assert pace.timed is None


def test_a_rate_spreads_what_is_sent_over_time() -> None:
    rate = Rate(1000)
    now = 100.0
    sent = 0
    while now < 110.0:
        now = max(now, rate.free_at())
        rate.spend(300, now)
        sent += 300
    assert 10_000 <= sent <= 10_600


def test_time_that_was_not_used_is_not_saved_up() -> None:
    rate = Rate(1000)
    rate.spend(1000, 0.0)
    rate.spend(1000, 500.0)
    assert rate.free_at() == 501.0


def test_a_rate_of_nothing_is_no_limit() -> None:
    rate = Rate(0)
    rate.spend(10**9, 5.0)
    assert rate.free_at() <= 5.0

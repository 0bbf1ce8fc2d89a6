import math

import pytest

from tests.lab.matrix import CASES
from tests.lab.measure import Figures
from tests.lab.table import Row, at, rows

GOOD = {"black-hole-20": (5.0, 5.0), "handoff-0": (1.0, None), "black-hole-5": (5.0, None)}
"""What just meets the targets: next, noticed."""


def row(case: str, *, count: int = 20, contender: str = "roamd", **differing: object) -> Row:
    """So many clients that just meet the targets, and one that differs."""
    following, noticed = GOOD.get(case, (0.1, 0.1))
    figures = {
        "case": case, "contender": contender, "next": following, "noticed": noticed,
        "disconnects": 0, "minutes": 1.0, "lost": 0, "sent": 9,
    }  # fmt: skip
    ones = [figures] * count + [figures | differing] * bool(differing)
    (only,) = rows(Figures(**one) for one in ones)  # type: ignore[arg-type]
    return only


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(n) for n in range(1, 31)]
    assert [at(values, share) for share in (0.5, 0.95, 1.0)] == [15.0, 29.0, 30.0]
    assert at([4.0], 0.95) == 4.0


@pytest.mark.parametrize("case", CASES)
def test_what_just_meets_the_targets_meets_them(case: str) -> None:
    assert row(case).misses() == []


@pytest.mark.parametrize(
    ("case", "differing", "missed"),
    [
        ("handoff-0", {"next": 1.1}, "next"),
        ("handoff-0", {"next": math.inf}, "next"),
        ("black-hole-20", {"noticed": 5.1}, "noticed"),
        ("black-hole-20", {"noticed": None}, "noticed"),
        ("black-hole-5", {"noticed": 5.1}, "noticed"),
        ("reset", {"lost": 1}, "lost"),
        ("loss-60", {"disconnects": 2}, "disconnects"),
    ],
)
def test_what_is_missed_is_told(case: str, differing: dict[str, object], missed: str) -> None:
    assert row(case, count=1, **differing).misses() == [missed]


def test_one_of_twenty_one_may_be_late_but_none_may_lose() -> None:
    assert row("handoff-0", next=9.0).misses() == []
    assert row("handoff-0", next=9.0, lost=1).misses() == ["lost"]


def test_over_tls_a_handoff_may_take_a_round_trip_more() -> None:
    assert row("handoff-0", count=1, contender="roamd-tls", next=1.5).misses() == []
    assert row("handoff-0", count=1, contender="roamd", next=1.5).misses() == ["next"]

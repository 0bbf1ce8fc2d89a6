"""When certificates end, and how often that is told."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.link.expiry import Certificate, Reminder, Stage, certificate, stage, told

DAY = 86_400.0
END = datetime(2031, 1, 31, 12, tzinfo=UTC).timestamp()


def lasting(days: float, *, what: str = "the client certificate") -> Certificate:
    return Certificate(what=what, subject="rover", not_before=END - days * DAY, not_after=END)


@pytest.mark.parametrize(
    ("life", "left", "expected"),
    [
        (365, 30.1, Stage.FINE), (365, 30, Stage.SOON), (365, 7.1, Stage.SOON), (365, 7, Stage.VERY_SOON),
        (365, 0.01, Stage.VERY_SOON), (365, 0, Stage.OVER), (365, -99, Stage.OVER),
        (6, 5, Stage.FINE), (6, 2.1, Stage.FINE), (6, 2, Stage.SOON), (6, 0.7, Stage.SOON), (6, 0.5, Stage.VERY_SOON),
    ],
)  # fmt: skip
def test_it_is_told_30_and_7_days_ahead_and_of_short_lives_later(life: float, left: float, expected: Stage) -> None:
    assert stage(lasting(life), END - left * DAY) is expected


@given(days=st.lists(st.floats(0, 60), min_size=1), start=st.floats(1, 90))
def test_each_stage_is_told_once_whatever_the_clock_does(days: list[float], start: float) -> None:
    reminder = Reminder()
    one = lasting(365)
    first = reminder.due([one], END - start * DAY)
    assert len(first) == (1 if start <= 30 else 0)
    lines = [line for left in days for line in reminder.due([one], END - left * DAY)]
    assert len(first) + len(lines) <= 3
    assert reminder.due([one], END - min(*days, start, 99) * DAY) == []


def test_all_three_are_told_when_time_goes_on_and_again_after_a_start() -> None:
    one = lasting(365)
    for _start in range(2):
        reminder = Reminder()
        lines = [line for day in range(60, -5, -1) for line in reminder.due([one], END - day * DAY)]
        assert lines == [
            "the client certificate (rover) expires in 30 days, on 2031-01-31 12:00 UTC: renew it",
            "the client certificate (rover) expires in 7 days, on 2031-01-31 12:00 UTC: renew it",
            "the client certificate (rover) has expired on 2031-01-31 12:00 UTC, by this machine's clock: renew it",
        ]


def test_a_renewed_certificate_and_a_second_one_are_told_for_themselves() -> None:
    reminder = Reminder()
    one, other = lasting(365), lasting(365, what="the CA certificate")
    assert len(reminder.due([one], END - DAY)) == 1
    assert len(reminder.due([one, other], END - DAY)) == 1
    assert len(reminder.due([lasting(300), other], END - DAY)) == 1
    assert reminder.due([one, other], END - DAY) == []
    assert "expires in 24 hours" in told(one, END - DAY)


def test_the_subject_is_the_common_name_or_what_there_is_instead() -> None:
    dates = {"notBefore": "Jan  1 00:00:00 2031 GMT", "notAfter": "Dec 31 23:59:59 9999 GMT"}
    name = ((("organizationName", "Acme"),), (("commonName", "rover"),))
    assert certificate("it", {**dates, "subject": name}).subject == "rover"
    assert certificate("it", {**dates, "subject": name[:1]}).subject == "Acme"
    assert certificate("it", {**dates, "subject": (), "subjectAltName": (("DNS", "b.example"),)}).subject == "b.example"
    assert certificate("it", dates).subject == "no subject"
    assert certificate("it", dates).not_before == datetime(2031, 1, 1, tzinfo=UTC).timestamp()

"""The small parts of the link: how long an answer may take, which server is next, and what is told of it."""

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import Cause
from agent.link.history import History, percentile
from agent.link.outstanding import Outstanding
from agent.link.progress import RoundTrip
from agent.link.repeats import Repeats
from agent.link.servers import Servers, references
from agent.model import Server

A, B, C = (Server(host=f"{name}.example", port=1883) for name in "abc")


# How long an answer may take.


def test_before_the_first_answer_the_longest_deadline_holds() -> None:
    round_trip = RoundTrip(dead_after=10.0)
    assert round_trip.deadline == round_trip.probe_deadline == 10.0
    round_trip.answered(0.04)
    assert (round_trip.deadline, round_trip.probe_deadline, round_trip.again_after) == (3.0, 1.0, 0.4)
    round_trip.forget()
    assert round_trip.deadline == 10.0
    assert round_trip.again_after is None


def test_the_deadline_follows_what_the_path_does() -> None:
    round_trip = RoundTrip(dead_after=10.0)
    for _ in range(100):
        round_trip.answered(0.6)
    assert round_trip.deadline == 3.0
    noise = random.Random(1)
    for _ in range(100):
        round_trip.answered(noise.choice((0.3, 0.6, 1.5)))
    assert 4.0 < round_trip.deadline < 9.0
    for _ in range(10):
        round_trip.answered(20.0)
    assert round_trip.deadline == round_trip.probe_deadline == 10.0


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(1, 300))
def test_deadlines_stay_within_their_bounds(answers: list[float], dead_after: float) -> None:
    round_trip = RoundTrip(dead_after=dead_after)
    for answer in answers:
        round_trip.answered(answer)
    assert min(3.0, dead_after) <= round_trip.deadline <= dead_after
    assert min(1.0, dead_after) <= round_trip.probe_deadline <= round_trip.deadline


# Server References (MQTT 5 section 4.11).


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("b.example", [("b.example", 8883)]),
        ("b.example:9000 10.1.2.3", [("b.example", 9000), ("10.1.2.3", 8883)]),
        ("[2001:db8::1]:1 [2001:db8::2]", [("2001:db8::1", 1), ("2001:db8::2", 8883)]),
        ("", []),
        ("b.example:port b.example:0 b.example:70000 user@b.example b.example/path [ :1", []),
    ],
)
def test_a_server_reference_is_read_and_what_is_no_address_left_out(text: str, expected: list[tuple[str, int]]) -> None:
    found = references(text, like=Server(host="a", port=1, is_tls=True))
    assert [(server.host, server.port) for server in found] == expected
    assert all(server.is_tls for server in found)


@given(st.text())
def test_no_server_reference_raises(text: str) -> None:
    for server in references(text, like=A):
        assert server.host
        assert 0 < server.port < 65_536


def test_the_case_of_a_name_that_may_be_referred_to_does_not_matter() -> None:
    assert Servers([A], referrals=["*.Fleet.Example"]).refer("N1.fleet.example") is not None
    assert Servers([A], referrals=["C.Example"]).refer("c.example:1883") == C


def test_a_referred_server_is_tried_again_after_a_loss_and_the_list_after_a_failure() -> None:
    servers = Servers([A, B], referrals=["*.example"])
    assert servers.refer("c.example:1883") == C
    servers.connected()
    assert servers.current == C
    assert not servers.is_away
    assert not servers.failed()
    assert servers.current == A


# What is told again.


def test_what_repeats_is_told_at_growing_intervals_and_at_least_once_an_hour() -> None:
    repeats = Repeats()
    told = [now for now in range(20_000) if repeats.is_due("gone", now)]
    assert told == [0, 60, 180, 420, 900, 1860, 3780, 7380, 10980, 14580, 18180]
    assert repeats.is_due("other", 0)
    repeats.forget()
    assert repeats.is_due("gone", 0)


# What is told.


def test_gaps_are_told_by_their_median_and_their_99th_percentile() -> None:
    history, now = History(0.0), 0.0
    history.attempt()
    history.up(now, "10.0.0.1")
    for number in range(1, 101):
        now += 60.0
        history.down(now, Cause.NO_PROGRESS, silent_for=1.0)
        history.attempt()
        history.attempt()
        now += number / 10
        history.up(now, f"10.0.0.{number % 2}")
    figures = history.figures(now)
    assert figures["connects"] == 101
    assert figures["attempts"] == 201
    assert figures["handoffs"] == 99
    assert figures["gap_p50"] == 6.0
    assert figures["gap_p99"] == 10.9
    assert figures["offline"] == pytest.approx(100 + 505, abs=0.1)
    assert figures["false_alarms"] == 0
    assert figures["downs"] == {"no progress": 100}


def test_time_without_a_link_counts_while_it_lasts() -> None:
    history = History(100.0)
    assert history.figures(105.0)["offline"] == 5.0
    history.up(110.0, "10.0.0.1")
    assert history.figures(200.0)["offline"] == 10.0
    history.down(200.0, Cause.CLOSED)
    assert history.figures(207.0)["offline"] == 17.0
    assert history.figures(207.0)["gap_p50"] is None


def test_a_percentile_is_one_of_the_values() -> None:
    assert percentile([3.0], 0.99) == 3.0
    assert percentile([5.0, 1.0, 3.0], 0.5) == 3.0


# What is outstanding.


async def test_who_waits_for_room_gets_it_in_turn_and_nobody_passes_the_receive_maximum() -> None:
    outstanding, went = Outstanding(None, 0.0), list[int]()

    async def send(number: int) -> None:
        await outstanding.room(2)
        outstanding.expect([number], 1.0)
        went.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(send(number))
        for _ in range(5):
            await asyncio.sleep(0)
        assert (went, outstanding.packets, outstanding.waiting) == ([0, 1], 2, 2)
        for expected in (3, 4):
            outstanding.count_answer(2.0)
            for _ in range(5):
                await asyncio.sleep(0)
            assert (len(went), outstanding.packets) == (expected, 2)
    assert went == [0, 1, 2, 3]
    assert outstanding.since == 2.0


def test_an_answer_is_outstanding_until_the_last_packet_is_acknowledged() -> None:
    round_trip = RoundTrip(dead_after=10.0)
    outstanding = Outstanding(round_trip, 0.0)
    assert outstanding.since is None
    outstanding.expect([7, 8], 1.0)
    assert (outstanding.since, outstanding.answered.is_set()) == (1.0, False)
    outstanding.pinged(1.5)
    assert outstanding.since == 1.0  # PINGREQ is no progress, nor is PINGRESP
    outstanding.ponged(1.75)
    assert (outstanding.since, round_trip.smoothed) == (1.0, 0.25)
    outstanding.heard(8, 2.0)
    outstanding.count_answer(2.0)
    assert outstanding.since == 2.0
    outstanding.count_answer(3.0)
    assert (outstanding.since, outstanding.answered.is_set()) == (None, True)

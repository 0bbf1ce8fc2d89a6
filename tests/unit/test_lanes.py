from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from agent.lanes import Fresh, Lane, Parcel, Queues, Room, Window
from agent.model import Message, Record, Stream

MESSAGE = Message(topic="t", payload=b"")
ROOM = Room(records=100, size=10_000, each=0)


def record(row: int, *, stream: str = "imu", priority: int = 5, taken: float = 0.0, size: int = 10) -> Record:
    return Record(
        row=row,
        stream=Stream(name=stream, priority=priority),
        epoch=1,
        seq=row,
        ts=0,
        taken=taken,
        tail=b"x" * size,
    )


def parcel(packet_id: int, lane: Lane = Lane.FRESH, size: int = 10) -> Parcel:
    return Parcel(packet_id=packet_id, lane=lane, message=MESSAGE, records=[record(packet_id)], size=size)


def test_fresh_records_leave_by_priority_and_then_in_the_order_of_acceptance() -> None:
    fresh = Fresh(5.0)
    for row, priority in ((1, 5), (2, 9), (3, 5), (4, 9), (5, 0)):
        fresh.push(record(row, priority=priority))
    rows = []
    while taken := fresh.take(0.0, ROOM):
        rows += [one.row for one in taken]
    assert rows == [2, 4, 1, 3, 5]


def test_a_record_that_grew_old_in_the_lane_is_not_sent_as_fresh() -> None:
    fresh = Fresh(5.0)
    fresh.push(record(1, taken=0.0))
    fresh.push(record(2, taken=4.0))
    assert [one.row for one in fresh.take(6.0, ROOM)] == [2]
    assert [one.row for one in fresh.take_stale(6.0, keep=100, keep_bytes=10_000)] == [1]
    assert len(fresh) == 0


def test_what_came_back_goes_out_again_before_the_others() -> None:
    fresh = Fresh(5.0)
    fresh.push(record(3))
    fresh.put_back([record(1), record(2)])
    assert [one.row for _ in range(3) for one in fresh.take(0.0, ROOM)] == [1, 2, 3]


def test_beyond_what_it_may_keep_the_lane_gives_up_its_lowest_priority_first() -> None:
    fresh = Fresh(5.0)
    for row in range(1, 7):
        fresh.push(record(row, priority=row % 2))
    assert [one.row for one in fresh.take_stale(0.0, keep=4, keep_bytes=10_000)] == [2, 4]
    assert len(fresh) == 4


def test_the_lane_knows_when_its_oldest_record_grows_old() -> None:
    fresh = Fresh(5.0)
    assert fresh.stale_at() is None
    fresh.push(record(1, taken=2.0, priority=1))
    fresh.push(record(2, taken=3.0, priority=9))
    assert fresh.stale_at() == 7.0


@given(
    limit=st.integers(1, 200),
    share=st.floats(0.01, 0.9),
    answers=st.lists(st.booleans(), max_size=300),
)
def test_with_both_lanes_full_each_gets_its_share_and_the_limit_holds(
    limit: int, share: float, answers: list[bool]
) -> None:
    window = Window(limit=limit, backlog_share=share)
    sent = {Lane.FRESH: 0, Lane.BACKLOG: 0}
    number = 0
    in_flight: list[int] = []
    for acknowledge in answers:
        if acknowledge and in_flight:
            window.remove(in_flight.pop(0))
        while lane := window.next_lane(fresh=True, backlog=True):
            number += 1
            window.add(parcel(number, lane, size=1), 0.0)
            in_flight.append(number)
            sent[lane] += 1
        assert len(window) == limit
    if limit > 1 and answers:
        assert sent[Lane.BACKLOG] >= min(share * limit, limit - 1) - 1
        assert sent[Lane.FRESH] >= 1


def test_a_fresh_record_finds_a_place_although_the_backlog_has_filled_its_part() -> None:
    window = Window(limit=20, backlog_share=0.2)
    for number in range(1, 21):
        lane = window.next_lane(fresh=False, backlog=True)
        if lane is None:
            break
        window.add(parcel(number, lane), 0.0)
    assert len(window) == 16
    assert window.next_lane(fresh=True, backlog=True) is Lane.FRESH


def test_a_window_of_one_serves_both_lanes_by_their_shares() -> None:
    window = Window(limit=1, backlog_share=0.2)
    lanes = []
    for number in range(1, 101):
        lane = window.next_lane(fresh=True, backlog=True)
        assert lane is not None
        assert lane is not None
        window.add(parcel(number, lane), 0.0)
        assert window.next_lane(fresh=True, backlog=True) is None
        window.remove(number)
        lanes.append(lane)
    assert lanes.count(Lane.BACKLOG) in {19, 20}


def test_bytes_in_flight_are_bounded_but_one_large_parcel_may_go() -> None:
    window = Window(limit=100, backlog_share=0.2)
    assert window.next_lane(fresh=True, backlog=False) is Lane.FRESH
    window.add(parcel(1, size=10 * window.pace.limit), 0.0)
    assert window.next_lane(fresh=True, backlog=False) is None
    window.remove(1)
    assert window.next_lane(fresh=True, backlog=False) is Lane.FRESH


def test_packet_identifiers_come_from_the_row_and_pass_over_those_in_flight() -> None:
    window = Window(limit=100, backlog_share=0.2)
    assert window.free_packet_id(1) == 1
    assert window.free_packet_id(60_000) == 60_000
    assert window.free_packet_id(60_001) == 1
    window.add(parcel(1), 0.0)
    assert window.free_packet_id(60_001) == 2
    assert window.free_packet_id(60_001, {2, 3}) == 4
    window.add(parcel(60_000), 0.0)
    assert window.free_packet_id(60_000) == 2


def test_clearing_returns_the_parcels_in_the_order_in_which_they_were_sent() -> None:
    window = Window(limit=100, backlog_share=0.2)
    for number in (7, 3, 5):
        window.add(parcel(number), 0.0)
    assert [one.packet_id for one in window.clear()] == [7, 3, 5]
    assert len(window) == 0
    assert window.remove(7) is None


def test_the_backlog_serves_the_stream_with_the_oldest_record_and_keeps_each_streams_order() -> None:
    queues = Queues()
    queues.extend([record(1, stream="b"), record(2, stream="a"), record(3, stream="b"), record(4, stream="a")])
    first = queues.next_stream()
    assert [one.row for one in queues.take(first, ROOM)] == [1, 3]
    assert (first.name, queues.next_stream().name) == ("b", "a")
    assert len(queues) == 2


def test_in_the_backlog_the_higher_priority_goes_first_but_the_oldest_record_gets_a_turn() -> None:
    queues = Queues()
    queues.extend([record(1, stream="old", priority=1)])
    queues.extend([record(row, stream="urgent", priority=9) for row in range(2, 100)])
    one_each = Room(records=1, size=10_000)
    rows = [queues.take(queues.next_stream(), one_each)[0].row for _ in range(20)]
    assert rows[:3] == [2, 3, 4]
    assert rows.index(1) < 10
    assert sorted(rows[: rows.index(1)]) == rows[: rows.index(1)]
    assert queues.of_priority(1) == 0
    assert queues.of_priority(9) == 79


def test_an_array_takes_as_many_as_fit_but_one_at_least() -> None:
    queues = Queues()
    queues.extend([record(row, size=100) for row in range(1, 6)])
    imu = queues.next_stream()
    assert len(queues.take(imu, Room(records=10, size=250, each=20))) == 2
    assert len(queues.take(imu, Room(records=10, size=1, each=20))) == 1
    assert len(queues.take(imu, Room(records=1, size=10_000, each=20))) == 1
    assert len(queues) == 1


def test_records_put_back_come_first_again() -> None:
    queues = Queues()
    queues.extend([record(row) for row in range(1, 5)])
    imu = queues.next_stream()
    taken = queues.take(imu, Room(records=3, size=1000, each=0))
    queues.put_back(taken[1:])
    assert [one.row for one in queues.take(imu, ROOM)] == [2, 3, 4]


# Batches.


def batched(row: int, *, taken: float, batch: int = 3, batch_for: float = 1.0, stream: str = "imu") -> Record:
    one = record(row, taken=taken)
    return replace(one, stream=Stream(name=stream, batch=batch, batch_for=batch_for))


def test_a_batch_goes_when_it_is_complete() -> None:
    fresh = Fresh(5.0)
    for row in (1, 2):
        fresh.push(batched(row, taken=0.0))
        assert not fresh.is_ready(0.5)
        assert fresh.take(0.5, ROOM) == []
    fresh.push(batched(3, taken=0.0))
    fresh.push(batched(4, taken=0.0))
    assert [one.row for one in fresh.take(0.5, ROOM)] == [1, 2, 3]
    assert len(fresh) == 1


def test_an_incomplete_batch_goes_when_its_first_record_has_waited() -> None:
    fresh = Fresh(5.0)
    fresh.push(batched(1, taken=2.0))
    fresh.push(batched(2, taken=2.9))
    assert fresh.ready_at() == 3.0
    assert fresh.take(2.99, ROOM) == []
    assert [one.row for one in fresh.take(3.0, ROOM)] == [1, 2]
    assert fresh.ready_at() is None


def test_without_a_time_to_wait_a_batch_is_what_is_there() -> None:
    fresh = Fresh(5.0)
    for row in (1, 2):
        fresh.push(batched(row, taken=0.0, batch=50, batch_for=0.0))
    assert [one.row for one in fresh.take(0.0, ROOM)] == [1, 2]


def test_a_batch_holds_no_more_bytes_than_there_is_room_for() -> None:
    fresh = Fresh(5.0)
    for row in (1, 2, 3):
        fresh.push(batched(row, taken=0.0))
    assert [one.row for one in fresh.take(0.0, Room(records=100, size=25, each=0))] == [1, 2]


def test_a_batch_that_waits_holds_up_no_other_stream() -> None:
    fresh = Fresh(5.0)
    fresh.push(batched(1, taken=0.0, stream="slow"))
    fresh.push(record(2))
    fresh.push(batched(3, taken=0.0, stream="quick", batch_for=0.0))
    assert [one.row for one in fresh.take(0.5, ROOM)] == [2]
    assert [one.row for one in fresh.take(0.5, ROOM)] == [3]
    assert fresh.take(0.5, ROOM) == []
    assert [one.row for one in fresh.take_stale(9.0, keep=100, keep_bytes=10_000)] == [1]


def test_the_lane_is_bounded_in_bytes_too() -> None:
    fresh = Fresh(5.0)
    for row in range(1, 11):
        fresh.push(record(row, size=100))
    assert [one.row for one in fresh.take_stale(0.0, keep=100, keep_bytes=350)] == [1, 2, 3, 4, 5, 6, 7]
    fresh.take(0.0, ROOM)
    assert fresh.take_stale(0.0, keep=100, keep_bytes=200) == []


def test_a_record_set_aside_as_too_old_is_due_at_once() -> None:
    fresh = Fresh(5.0)
    fresh.push(record(1, taken=0.0))
    assert fresh.take(6.0, ROOM) == []
    due = fresh.stale_at()
    assert due is not None
    assert due <= 6.0
    assert [one.row for one in fresh.take_stale(6.0, keep=100, keep_bytes=10_000)] == [1]
    assert fresh.stale_at() is None


def test_records_given_back_to_the_backlog_go_before_the_newer_ones_that_are_there() -> None:
    queues = Queues()
    queues.extend([record(row) for row in (5, 6, 9)])
    queues.extend([record(row) for row in (2, 7, 10)])
    assert [one.row for one in queues.take(queues.next_stream(), ROOM)] == [2, 5, 6, 7, 9, 10]


def test_a_fresh_record_finds_bytes_although_the_backlog_has_filled_its_part() -> None:
    window = Window(limit=1000, backlog_share=0.2)
    size = window.pace.limit // 10
    number = 0
    while window.next_lane(fresh=False, backlog=True):
        number += 1
        window.add(parcel(number, Lane.BACKLOG, size=size), 0.0)
    assert number in {8, 9}
    assert window.next_lane(fresh=True, backlog=True) is Lane.FRESH


def test_the_backlog_finds_bytes_although_fresh_records_have_filled_theirs() -> None:
    window = Window(limit=1000, backlog_share=0.2)
    size = window.pace.limit // 100
    number = 0
    while window.next_lane(fresh=True, backlog=True) is Lane.FRESH:
        number += 1
        window.add(parcel(number, size=size), 0.0)
    assert 79 <= number <= 82
    assert window.next_lane(fresh=True, backlog=True) is Lane.BACKLOG

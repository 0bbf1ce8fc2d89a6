"""Looking for the packet for which a server ends connections."""

from agent.again import Suspicion
from agent.lanes import Lane, Parcel
from agent.model import Message, Record, Stream


def parcel(row: int, *, released: bool = False) -> Parcel:
    record = Record(row=row, stream=Stream(name="imu"), epoch=1, seq=row, ts=0, taken=0.0, tail=b"}")
    made = Parcel(packet_id=row, lane=Lane.FRESH, message=Message(topic="t", payload=b""), records=[record], size=1)
    made.is_released = released
    return made


def closings_until_found(suspicion: Suspicion, in_flight: list[Parcel]) -> int:
    """Close with this in flight, or with its first alone where the suspicion asks for that."""
    for count in range(1, 100):
        if found := suspicion.closed(in_flight[:1] if suspicion.is_on else in_flight, 0):
            assert found is in_flight[0]
            return count
    return 0


def test_a_closing_without_a_word_blames_nothing_until_it_comes_ten_times_upon_the_same() -> None:
    assert closings_until_found(Suspicion(), [parcel(1), parcel(2)]) == 10


def test_a_closing_upon_another_record_starts_the_count_again() -> None:
    suspicion = Suspicion()
    for row in (*[1] * 7, *[2] * 7, *[3] * 7):
        assert suspicion.closed([parcel(row), parcel(9)], 0) is None
        assert not suspicion.is_on


def test_a_closing_with_nothing_in_flight_or_with_a_message_that_was_taken_says_nothing() -> None:
    suspicion = Suspicion()
    assert [suspicion.closed([], 3) for _ in range(100)] == [None] * 100
    assert [suspicion.closed([parcel(1, released=True)], 3) for _ in range(100)] == [None] * 100
    assert not suspicion.is_on


def test_a_disconnect_with_a_reason_finds_it_at_once() -> None:
    suspicion = Suspicion()
    one, other = parcel(1), parcel(2)
    assert suspicion.blame([one, other], 0) is None
    assert suspicion.is_on
    assert suspicion.blame([one], 1) is None
    assert suspicion.blame([one], 1) is one

"""What was received and waits to be taken."""

import pytest

from agent.link.inbox import Inbox
from agent.model import Inbound


def message(qos: int) -> Inbound:
    return Inbound(topic="t", payload=b"", qos=qos, retain=False, dup=False, packet_id=None if qos == 0 else 1)


async def test_reading_stops_while_much_waits_and_nothing_of_qos_1_is_dropped() -> None:
    inbox = Inbox()
    for _ in range(3_000):
        inbox.offer(message(1))
    assert not inbox.room.is_set()
    while inbox.qsize() > 251:
        inbox.get_nowait()
    assert not inbox.room.is_set()
    inbox.get_nowait()
    assert inbox.room.is_set()
    assert inbox.qsize() == 250


async def test_at_qos_0_what_is_too_much_is_dropped_and_told_twice_at_most(caplog: pytest.LogCaptureFixture) -> None:
    inbox = Inbox()
    for _ in range(1_500):
        inbox.offer(message(0))
    assert (inbox.qsize(), inbox.room.is_set()) == (1_000, True)
    while not inbox.empty():
        inbox.get_nowait()
    assert [record.message for record in caplog.records] == [
        "a message on t is dropped: 1000 wait already",
        "500 messages at QoS 0 were dropped",
    ]

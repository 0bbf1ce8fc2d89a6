import itertools
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.store.schema import MIGRATIONS
from agent.store.transaction import Changes, Counts, Row, spans, transact


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        for migration in MIGRATIONS:
            database.executescript(migration)
        yield database


def rows(*numbers: int) -> list[Row]:
    return [(number, 1, 7, number, 1_000, 5, b"}") for number in numbers]


def kept(connection: sqlite3.Connection) -> list[int]:
    return [row for (row,) in connection.execute("SELECT row FROM outbox ORDER BY row")]


@given(st.sets(st.integers(0, 200)))
def test_spans_are_the_numbers_and_no_others_and_do_not_touch(numbers: set[int]) -> None:
    found = list(spans(numbers))
    assert [number for first, last in found for number in range(first, last + 1)] == sorted(numbers)
    assert all(last + 1 < first for (_, last), (first, _) in itertools.pairwise(found))


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 40])
def test_all_rows_are_inserted_however_many_go_together(connection: sqlite3.Connection, count: int) -> None:
    numbers = list(range(3, 3 + count))
    transact(connection.cursor(), Changes(counts=[Counts(id=1, name="imu")], insert=rows(*numbers)))
    assert kept(connection) == numbers


def test_only_the_rows_that_are_named_go(connection: sqlite3.Connection) -> None:
    transact(connection.cursor(), Changes(counts=[Counts(id=1, name="imu")], insert=rows(*range(1, 11))))
    transact(connection.cursor(), Changes(delete=[9, 1, 3, 2, 7], quarantine=[(5, 0x99, "bad", 1_001)]))
    assert kept(connection) == [4, 6, 8, 10]
    assert connection.execute("SELECT row, reason_code FROM quarantine").fetchall() == [(5, 0x99)]


def test_a_transaction_that_fails_changes_nothing(connection: sqlite3.Connection) -> None:
    transact(connection.cursor(), Changes(counts=[Counts(id=1, name="imu")], insert=rows(1)))
    with pytest.raises(sqlite3.IntegrityError):
        transact(connection.cursor(), Changes(delete=[1], insert=rows(2, 1)))
    assert kept(connection) == [1]
    assert not connection.in_transaction

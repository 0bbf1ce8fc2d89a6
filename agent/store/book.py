"""What is written beside the outbox, in its transactions: statements that wait, and who waits for them."""

import asyncio
from collections.abc import Callable

from agent.store.transaction import Statement


class Book:
    """Statements for the next transaction, in their order. `stir` is called when there is something to write."""

    def __init__(self, stir: Callable[[], None]) -> None:
        self._stir = stir
        self._statements: list[Statement] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._writing: list[asyncio.Future[None]] = []
        self._is_writing = False

    def write(self, statement: str, *values: object) -> None:
        """Have a statement executed with these values."""
        self._statements.append((statement, values))
        self._stir()

    def written(self) -> asyncio.Future[None]:
        """Return what is done once all so far is on the disk. Each caller has its own."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._statements:
            self._waiters.append(waiter)
        elif self._is_writing:
            self._writing.append(waiter)
        else:
            waiter.set_result(None)
        return waiter

    @property
    def is_due(self) -> bool:
        """Whether there is something to write."""
        return bool(self._statements)

    def plan(self) -> list[Statement]:
        """Return what is to be written. Follow it by `committed`."""
        statements, self._statements = self._statements, []
        self._writing, self._waiters = self._waiters, []
        self._is_writing = bool(statements)
        return statements

    def committed(self) -> None:
        """Note that it is on the disk."""
        for waiter in self._writing:
            if not waiter.done():
                waiter.set_result(None)
        self._writing, self._is_writing = [], False

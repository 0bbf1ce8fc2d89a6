"""Who waits for a record's promise to hold."""

import asyncio


class Promises:
    """A future for each row that somebody waits for."""

    def __init__(self) -> None:
        self._waiters: dict[int, asyncio.Future[None]] = {}

    def of(self, row: int) -> asyncio.Future[None]:
        """Return what is done once `hold` was called for the row. Whoever waits must not cancel it: others may wait."""
        waiter = self._waiters.get(row)
        if waiter is None:
            waiter = self._waiters[row] = asyncio.get_running_loop().create_future()
        return waiter

    def hold(self, row: int) -> None:
        """Note that the promise of this row holds."""
        if self._waiters and (waiter := self._waiters.pop(row, None)):
            waiter.set_result(None)

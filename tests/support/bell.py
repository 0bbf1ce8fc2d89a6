import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Bell:
    """Rung by each event; whoever waits for a condition looks again at each ring, and never sleeps."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    def ring(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def until(self, condition: Callable[[], T], *, within: float, story: Callable[[], str]) -> T:
        """Return the condition's first true value; raises `TimeoutError` with the `story` after `within` seconds."""
        deadline = asyncio.timeout(within)
        try:
            async with deadline:
                while not (value := condition()):
                    future = asyncio.get_running_loop().create_future()
                    self._waiting.append(future)
                    await future
                return value
        except TimeoutError as exc:
            if deadline.expired():
                raise TimeoutError(f"not within {within} s: {story()}") from exc
            raise

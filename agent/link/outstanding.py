"""What a connection has sent and the server has not answered: how much, since when, and whose turn is next."""

import asyncio
from collections import deque
from collections.abc import Sequence

from agent.link.progress import RoundTrip


class Outstanding:
    """Counts packets that the server has to acknowledge; times are monotonic, in seconds.

    `answered` is set while there are none. One packet at a time is timed for the round trip.
    """

    def __init__(self, round_trip: RoundTrip | None, now: float) -> None:
        self.packets = 0
        self.answered = asyncio.Event()
        self.answered.set()
        self._round_trip = round_trip
        self._progress_at = now
        self._timed: int | None = None
        self._timed_at = now
        self._pinged_at: float | None = None
        self._turns: deque[asyncio.Future[None]] = deque()

    def expect(self, packet_ids: Sequence[int], now: float) -> None:
        """Count packets that are sent."""
        if not packet_ids:
            return
        if not self.packets:
            self._progress_at = now
            self.answered.clear()
        self.packets += len(packet_ids)
        if self._timed is None:
            self._timed, self._timed_at = packet_ids[-1], now

    def heard(self, packet_id: int, now: float) -> None:
        """Note a first answer to a packet."""
        if packet_id == self._timed:
            self._timed = None
            self._learn(now - self._timed_at)

    def count_answer(self, now: float) -> None:
        """Note that one packet is acknowledged."""
        self._progress_at = now
        self.packets = max(0, self.packets - 1)
        if self._turns and not self._turns[0].done():
            self._turns[0].set_result(None)
        if not self.packets:
            self.answered.set()

    def progressed(self, now: float) -> None:
        """Note a step on the way to an acknowledgement, or that data has left this machine and was received."""
        self._progress_at = now

    # PINGREQ.

    @property
    def is_pinged(self) -> bool:
        """Whether a PINGREQ has no answer yet."""
        return self._pinged_at is not None

    def pinged(self, now: float) -> None:
        """Note a PINGREQ."""
        self._pinged_at = now
        if not self.packets:
            self._progress_at = now

    def ponged(self, now: float) -> None:
        """Note a PINGRESP."""
        if self._pinged_at is not None:
            self._learn(now - self._pinged_at)
            self._pinged_at = None

    @property
    def since(self) -> float | None:
        """Since when an answer is outstanding and none has come; None: none is outstanding.

        PINGRESP does not stand for PUBACK: a server that answers only pings is as dead as a silent one.
        """
        return self._progress_at if self.packets or self.is_pinged else None

    def _learn(self, after: float) -> None:
        if self._round_trip is not None:
            self._round_trip.answered(after)

    # Turns.

    @property
    def waiting(self) -> int:
        """How many wait for room."""
        return len(self._turns)

    async def room(self, receive_maximum: int) -> None:
        """Wait until one more packet stays within the server's Receive Maximum; who comes first goes first."""
        while self.packets >= receive_maximum:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._turns.append(turn)
            try:
                await turn
            finally:
                self._turns.remove(turn)

    def turns(self) -> Sequence[asyncio.Future[None]]:
        """Return what those wait for."""
        return tuple(self._turns)

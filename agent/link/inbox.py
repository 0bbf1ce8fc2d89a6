"""What a connection has received and nobody has taken yet."""

import asyncio
import logging

from agent.model import Inbound, Released

log = logging.getLogger(__name__)

_MOST = 1_000
_HIGH = 500
_LOW = 250


class Inbox(asyncio.Queue[Inbound | Released]):
    """A queue that has the connection read no further while much of it is waiting: see `room`.

    Receive Maximum bounds what a server sends (MQTT 5 section 4.9), but not every server: mosquitto 2.0.11 sends that
    many again for each PUBACK, while it has more for a session that was away.
    """

    def __init__(self) -> None:
        super().__init__()
        self.room = asyncio.Event()
        """Set while the connection may read on."""
        self.room.set()
        self._dropped = 0

    def offer(self, message: Inbound | Released) -> None:
        """Take a message; one at QoS 0 is dropped where 1,000 wait already."""
        if isinstance(message, Inbound) and message.qos == 0:
            if self.qsize() >= _MOST:
                self._drop(message)
                return
        elif self.qsize() >= _HIGH:
            self.room.clear()
        self.put_nowait(message)

    def _drop(self, message: Inbound) -> None:
        if not self._dropped:
            log.warning("a message on %s is dropped: %d wait already", message.topic, _MOST)
        self._dropped += 1

    def _get(self) -> Inbound | Released:
        message = super()._get()
        if self.qsize() <= _LOW:
            self.room.set()
            if self._dropped:
                log.warning("%d messages at QoS 0 were dropped", self._dropped)
                self._dropped = 0
        return message

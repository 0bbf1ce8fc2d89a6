"""What the scripted broker is told to do on one connection, and a PUBLISH as it received it."""

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.support.packets import Filter, Packet, Publish, Pubrel
from tests.support.wire import Properties

if TYPE_CHECKING:
    from tests.support.connection import Connection


class Hello(enum.Enum):
    """How CONNECT is answered."""

    CONNACK = enum.auto()
    SILENCE = enum.auto()
    CLOSE = enum.auto()


def accept(packet: Publish) -> int | None:  # noqa: ARG001
    return 0


def complete(packet: Pubrel) -> int | None:  # noqa: ARG001
    return 0


def grant(item: Filter) -> int:
    return item.qos


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What the broker does on one connection; the defaults are those of an honest broker.

    `properties` are CONNACK's: `receive_maximum`, `maximum_packet_size`, `maximum_qos`, `retain_available`,
    `server_keep_alive`, `topic_alias_maximum`. `ack` gives the reason code of PUBACK or PUBREC, `complete` that of
    PUBCOMP: None never answers. `abort_after` resets the connection upon that many PUBLISH. `raw` is sent after the
    answer to CONNECT, or in its place with `Hello.SILENCE`. `on_packet` sees each packet after it was answered.
    """

    hello: Hello = Hello.CONNACK
    reason: int = 0
    properties: Properties = field(default_factory=dict)
    session_present: bool | None = None
    ack: Callable[[Publish], int | None] = accept
    complete: Callable[[Pubrel], int | None] = complete
    grant: Callable[[Filter], int] = grant
    abort_after: int | None = None
    raw: bytes = b""
    on_packet: "Callable[[Connection, Packet], None] | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A PUBLISH as it came. `topic` is resolved from its alias, `code` what the script chose to answer, `at` when."""

    packet: Publish
    topic: str
    connection: int
    at: float
    code: int | None

    @property
    def payload(self) -> bytes:
        return self.packet.payload

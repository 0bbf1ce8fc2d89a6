"""The values that flow through the house: frozen, and without behaviour."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

Value = bool | int | float | str | None
"""What a field of a record holds: records are flat, so a leaf of JSON."""

Fields = Mapping[str, Value]


class Delivery(StrEnum):
    """What a stream promises about its records (contract, section 4)."""

    LIVE = "live"
    STORED = "stored"
    SYNCED = "synced"


class Confirm(StrEnum):
    """Whose word ends a record: the broker's PUBACK, or the controller's `received` (contract, section 6)."""

    BROKER = "broker"
    CONTROLLER = "controller"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """How the records of one stream are delivered.

    `name` is the stream's (`imu`), or `event/NAME` for the records of one event. A larger `priority` goes first.
    Up to `batch` fresh records go in one PUBLISH; the first of them waits `batch_for` seconds for the others at most.
    With `on_change`, a sample counts only if a field that it names moved by more than its dead band (`*` stands for
    all others), or `heartbeat` seconds after the last one that counted; a heartbeat of 0 is none.
    """

    name: str
    delivery: Delivery = Delivery.STORED
    qos: int = 1
    retain: bool = False
    priority: int = 5
    batch: int = 1
    batch_for: float = 0.0
    on_change: Mapping[str, float] = field(default_factory=dict, hash=False)
    heartbeat: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One reading, before it has an identity.

    `ts` is Unix time in milliseconds; `taken` the same moment on CLOCK_MONOTONIC, in seconds.
    """

    stream: str
    ts: int
    taken: float
    fields: Fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One accepted sample: (device, `stream`, `epoch`, `seq`) names it for ever.

    `row` is its place in the outbox, which grows with each acceptance. `tail` is the JSON text of its fields without
    the opening brace, so that the reserved keys can be put in front of it without encoding it again. A document of the
    agent's own, such as a loss report, has no identity: its `seq` is 0 and its tail is the whole of it.
    """

    row: int
    stream: Stream
    epoch: int
    seq: int
    ts: int
    taken: float
    tail: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One PUBLISH, as MQTT 5 section 3.3 has it. `expiry` is the Message Expiry Interval in seconds.

    MQTT 3.1.1 has no place for `expiry` and what follows it.
    """

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    expiry: int | None = None
    content_type: str | None = "application/json"
    response_topic: str | None = None
    correlation_data: bytes | None = None


class Version(StrEnum):
    """A version of MQTT that can be spoken."""

    MQTT_5 = "5"
    MQTT_3_1_1 = "3.1.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where a broker listens: a host name or address, a TCP port, and whether TLS is spoken there."""

    host: str
    port: int
    is_tls: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbound:
    """One received PUBLISH (MQTT 5 section 3.3). `packet_id` is None at QoS 0; `expiry` is in seconds from now."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    packet_id: int | None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    expiry: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """A received PUBREL (MQTT 5 section 3.6): what came at QoS 2 under this identifier will not come again."""

    packet_id: int


class Status(StrEnum):
    """How a command ended (contract, section 5); ACCEPTED: it goes on."""

    ACCEPTED = "accepted"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REJECTED = "rejected"
    EXPIRED = "expired"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a command; `reason` tells why it did not succeed."""

    status: Status = Status.SUCCEEDED
    result: Mapping[str, object] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the server's CONNACK allows (MQTT 5 section 3.2.2.3), with the standard's values for what it leaves out.

    `maximum_packet_size` is in bytes, None for no limit beyond the protocol's; `keep_alive` in seconds, 0 for none.
    """

    session_present: bool
    receive_maximum: int = 65_535
    maximum_packet_size: int | None = None
    maximum_qos: int = 2
    retain_available: bool = True
    keep_alive: int = 0
    gives_reasons: bool = True
    """Whether there are reason codes: in MQTT 3.1.1 the server just closes the connection."""

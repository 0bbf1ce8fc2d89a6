"""Judges a client's conduct by MQTT 5, or by MQTT 3.1.1: pure, the time is an argument.

What is judged is only what the server can know for certain. Packets that were under way when a connection broke may
never have been seen here, so that a retransmission may look like a first transmission: as many as the largest Receive
Maximum of the session are let pass.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.support.packets import Connack, Connect, Puback, Publish, Pubrel, Subscribe, Unsubscribe
from tests.support.wire import MQTT_3_1_1, MQTT_5

IN_3_1_1 = {
    "MQTT-2.2.1-3": "MQTT-2.3.1-2",
    "MQTT-2.2.1-5": "MQTT-2.3.1-6",
    "MQTT-3.1.2-22": "MQTT-3.1.2-23",
    "MQTT-4.3.2-2": "MQTT-4.3.2-1",
    "MQTT-4.3.3-2": "MQTT-4.3.3-1",
    "MQTT-4.3.3-6": "MQTT-4.3.3-1",
}
"""What the statements of MQTT 5 are called there; the others have the same number in both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """`statement` is the number of the normative statement, or a section of the standard where it has none."""

    statement: str
    text: str
    connection: int


@dataclass(slots=True)
class Session:
    """What a server keeps of a client across connections (section 4.1), and what the client should remember."""

    client_id: str
    expiry: int = 0
    subscriptions: dict[str, int] = field(default_factory=dict)
    received: dict[int, Publish] = field(default_factory=dict)
    """PUBLISH of the client that were not answered for good."""
    firsts: dict[int, tuple[int, Publish]] = field(default_factory=dict)
    """What came last under each identifier, answered or not, with the number of its first transmission.

    An answer may be lost with its connection. The message then comes again, in the place that it had.
    """
    placed: int = 0
    held: set[int] = field(default_factory=set)
    """Identifiers of QoS 2 messages that were taken and not released."""
    released: set[int] = field(default_factory=set)
    """Identifiers whose PUBREL came, and whose PUBCOMP was not sent yet."""
    outgoing: dict[int, Publish | Pubrel] = field(default_factory=dict)
    """What the server sent and the client has not answered for good."""
    window: int = 0
    forgotten: set[int] = field(default_factory=set)
    memory_lost: bool = False

    def place(self, packet: Publish, packet_id: int) -> None:
        """Number a message at its first transmission."""
        earlier = self.firsts.get(packet_id)
        if earlier is None or not packet.dup or not same(earlier[1], packet):
            self.placed += 1
            self.firsts[packet_id] = self.placed, packet

    def forget_client(self) -> None:
        """From now on the client need not know what it sent before: its process was started again."""
        self.forgotten |= self.received.keys()
        self.memory_lost = True


class Conduct:
    """One connection's conduct, from its CONNACK to its end."""

    def __init__(
        self,
        *,
        session: Session,
        connect: Connect,
        connack: Connack,
        report: Callable[[str, str], None],
        now: float,
        level: int = MQTT_5,
    ) -> None:
        limits = connack.properties
        self._session = session
        self._level = level
        self._to = report
        self._resumed = connack.session_present
        self._memory_lost, session.memory_lost = session.memory_lost, False
        self._window = _number(limits.get("receive_maximum", 65_535))
        self._bound = max(session.window, 1)
        session.window = max(session.window, self._window)
        self._largest = _number(limits.get("maximum_packet_size", 268_435_460))
        self._maximum_qos = _number(limits.get("maximum_qos", 2))
        self._retain_available = limits.get("retain_available", 1) == 1
        self._alias_maximum = _number(limits.get("topic_alias_maximum", 0))
        self._keep_alive = _number(limits.get("server_keep_alive", connect.keep_alive))
        self._authenticates = "authentication_method" in connect.properties
        self._aliases: dict[int, str] = {}
        self._waiting: dict[int, Publish] = {}
        self._releasing: set[int] = set()
        self._resent_place = 0
        self._unseen = 0
        self._heard = now

    def _report(self, statement: str, text: str) -> None:
        self._to(IN_3_1_1.get(statement, statement) if self._level == MQTT_3_1_1 else statement, text)

    def heard(self, *, size: int, now: float) -> None:
        """Any packet: its size, and the time since the one before it."""
        if size > self._largest:
            self._report("MQTT-3.2.2-15", f"{size} bytes with Maximum Packet Size {self._largest}")
        self.silent_until(now)
        self._heard = now

    def silent_until(self, now: float) -> None:
        if self._keep_alive and now - self._heard > 1.5 * self._keep_alive:
            self._report("MQTT-3.1.2-22", f"{now - self._heard:.2f} s of silence with keep alive {self._keep_alive}")

    def deaf(self) -> None:
        """The server stops reading: the client's silence cannot be told from its own."""
        self._heard = math.inf

    def listening(self, now: float) -> None:
        self._heard = now

    def topic(self, packet: Publish) -> str:
        """Resolve the topic alias (section 3.3.2.3.4)."""
        alias = packet.properties.get("topic_alias")
        if alias is not None:
            number = _number(alias)
            if number > self._alias_maximum:
                self._report("MQTT-3.3.2-9", f"topic alias {number} with Topic Alias Maximum {self._alias_maximum}")
            if packet.topic:
                self._aliases[number] = packet.topic
            elif number in self._aliases:
                return self._aliases[number]
        if not packet.topic:
            self._report("section 3.3.2.1", f"an empty topic name with the alias {alias!r}")
        return packet.topic

    def publish(self, packet: Publish) -> None:
        if "+" in packet.topic or "#" in packet.topic:
            self._report("MQTT-3.3.2-2", f"a wildcard in the topic name {packet.topic!r}")
        if packet.qos > self._maximum_qos:
            self._report("MQTT-3.2.2-11", f"QoS {packet.qos} with Maximum QoS {self._maximum_qos}")
        if packet.retain and not self._retain_available:
            self._report("MQTT-3.2.2-14", f"RETAIN on {packet.topic!r} without Retain Available")
        if packet.properties:
            self._publish_properties(packet)
        if packet.packet_id is None:
            if packet.dup:
                self._report("MQTT-3.3.1-2", f"DUP at QoS 0 on {packet.topic!r}")
            return
        if packet.packet_id in self._waiting:
            self._sent_again_here(packet, packet.packet_id)
            return
        self._first_here(packet, packet.packet_id)
        if len(self._waiting) >= self._window:
            self._report("MQTT-3.3.4-7", f"{len(self._waiting) + 1} in flight with Receive Maximum {self._window}")
        self._waiting[packet.packet_id] = packet
        self._session.received[packet.packet_id] = packet
        self._session.place(packet, packet.packet_id)

    def _publish_properties(self, packet: Publish) -> None:
        response = packet.properties.get("response_topic")
        if isinstance(response, str) and ("+" in response or "#" in response):
            self._report("MQTT-3.3.2-14", f"a wildcard in the response topic {response!r}")
        if "subscription_identifier" in packet.properties:
            self._report("MQTT-3.3.4-6", f"a subscription identifier on {packet.topic!r}")

    def _sent_again_here(self, packet: Publish, packet_id: int) -> None:
        is_same = same(self._waiting[packet_id], packet)
        if self._level == MQTT_3_1_1 and is_same:
            # Sending again is not forbidden there (3.1.1 section 4.4), as long as it says so.
            if not packet.dup:
                self._report("MQTT-3.3.1-1", f"packet {packet_id} was sent again with DUP 0")
        elif packet.dup or is_same:
            self._report("MQTT-4.4.0-1", f"packet {packet_id} was sent again on a live connection")
        else:
            self._report("MQTT-2.2.1-3", f"packet identifier {packet_id} was used again while in flight")

    def _first_here(self, packet: Publish, packet_id: int) -> None:
        """Judge a packet identifier that comes for the first time on this connection."""
        earlier = self._session.received.get(packet_id)
        if packet_id in self._session.forgotten:
            self._session.forgotten.discard(packet_id)
        elif earlier is None:
            self._unseen_duplicate(packet, packet_id)
        elif not same(earlier, packet):
            self._report("MQTT-2.2.1-3", f"packet identifier {packet_id} of the session was given to another message")
        elif packet_id in self._session.released:
            self._report("MQTT-4.3.3-6", f"PUBLISH {packet_id} again after its PUBREL")
        elif not packet.dup:
            self._report("MQTT-3.3.1-1", f"packet {packet_id} was sent again with DUP 0")
        else:
            place, _ = self._session.firsts[packet_id]
            if place < self._resent_place:
                self._report("MQTT-4.6.0-1", f"packet {packet_id} was sent again after one that was first sent later")
            self._resent_place = place

    def _unseen_duplicate(self, packet: Publish, packet_id: int) -> None:
        if not packet.dup or self._memory_lost:
            return
        self._unseen += 1
        if not self._resumed or self._unseen > self._bound:
            statement = "MQTT-4.3.2-2" if packet.qos == 1 else "MQTT-4.3.3-2"
            self._report(statement, f"DUP on the first transmission of packet {packet_id}")

    def request(self, packet: Subscribe | Unsubscribe) -> None:
        if (
            packet.packet_id in self._waiting
            or packet.packet_id in self._session.received.keys() - self._session.forgotten
        ):
            name = type(packet).__name__.upper()
            self._report("MQTT-2.2.1-3", f"{name} with packet identifier {packet.packet_id}, which is in flight")

    def answered(self, packet_id: int) -> None:
        """The last answer to a PUBLISH goes out: PUBACK, PUBCOMP, or PUBREC of 0x80 or more."""
        self._waiting.pop(packet_id, None)
        self._releasing.discard(packet_id)
        session = self._session
        session.received.pop(packet_id, None)
        session.held.discard(packet_id)
        session.released.discard(packet_id)
        session.forgotten.discard(packet_id)

    def release(self, packet: Pubrel) -> None:
        if packet.packet_id in self._releasing:
            if self._level == MQTT_5:
                self._report("MQTT-4.4.0-1", f"PUBREL {packet.packet_id} was sent again on a live connection")
        elif packet.packet_id not in self._session.held and not self._resumed:
            self._report("section 4.3.3", f"PUBREL {packet.packet_id}, which was never received")
        self._releasing.add(packet.packet_id)
        self._session.released.add(packet.packet_id)

    def acknowledges(self, packet_id: int, kind: type) -> None:
        """Judge the client's PUBACK, PUBREC or PUBCOMP."""
        outgoing = self._session.outgoing
        if packet_id not in outgoing:
            self._report("MQTT-2.2.1-5", f"{kind.__name__.upper()} {packet_id} for nothing that was sent")
        elif kind is Puback:
            first = next(i for i, sent in outgoing.items() if isinstance(sent, Publish) and sent.qos == 1)
            if first != packet_id:
                self._report("MQTT-4.6.0-2", f"PUBACK {packet_id} before {first}")

    def authenticates(self) -> None:
        if not self._authenticates:
            self._report("MQTT-4.12.0-7", "AUTH without an authentication method in CONNECT")


def same(one: Publish, other: Publish) -> bool:
    """Whether these are one message: its topic, payload, QoS and RETAIN."""
    return (one.topic, one.payload, one.qos, one.retain) == (other.topic, other.payload, other.qos, other.retain)


def _number(value: object) -> int:
    assert isinstance(value, int)
    return value

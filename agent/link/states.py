"""The link's states, what happens to it, and what is to be done: the words of its state machine. Pure."""

from dataclasses import dataclass
from enum import Enum

from agent.errors import LinkDownError
from agent.model import Server


class State(Enum):
    """Where the link stands."""

    DIAL = "connecting"
    HELLO = "greeting"
    UP = "up"
    SUSPECT = "in doubt"
    CUT_OFF = "cut off"
    BACKOFF = "waiting to connect"
    NO_ROUTE = "no route"
    PARKED = "refused"
    STOPPED = "stopped"

    @property
    def is_up(self) -> bool:
        """Whether there is a session that serves."""
        return self in _UP


_UP = frozenset({State.UP, State.SUSPECT, State.CUT_OFF})
TRYING = frozenset({State.DIAL, State.HELLO})
WAITING = frozenset({State.BACKOFF, State.NO_ROUTE, State.PARKED})


# What happens.


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The agent has begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialled:
    """The TCP connection is there; `source` is this side's address, `peer` the server's, None where it is not known."""

    source: str
    peer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeted:
    """CONNACK has granted the connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """The server has acknowledged a PUBLISH."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A packet came after a probe: the path is good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The attempt failed, or the link ended, by itself."""

    why: LinkDownError


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """The path check: from which address a packet to the broker would go now; None: there is no route.

    It is told after each event of the network, and when it has changed. `answer_within` is how long the answer to a
    probe may take, in seconds; None: so much waits to be sent that a probe would wait behind it.
    """

    source: str | None
    answer_within: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Elapsed:
    """The deadline has come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded:
    """Settings or certificates may be others now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reachable:
    """The preferred server takes TCP connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """The session was served to its end: the agent stops."""


Event = (
    Started | Dialled | Greeted | Proven | Answered | Failed | Looked | Elapsed | Reloaded | Reachable | Left
)  # fmt: skip


# What to do.


@dataclass(frozen=True, slots=True, kw_only=True)
class Dial:
    """Begin an attempt; `hello_timeout` is for TLS and CONNACK together, in seconds."""

    server: Server
    hello_timeout: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort:
    """End the attempt or the session at once; of its end nothing more is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """End the session in order, with DISCONNECT; of its end nothing more is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Send PINGREQ, and tell of the next packet that comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knock:
    """See whether this server takes TCP connections."""

    server: Server


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """The state has changed: tell it. `wait` is in seconds, where the new state is one that waits.

    `is_news` is False for what was told not long ago in much the same words: one more failed attempt.
    """

    before: State
    after: State
    why: str
    wait: float
    is_news: bool
    lasted: float


Action = Dial | Abort | Leave | Probe | Knock | Changed

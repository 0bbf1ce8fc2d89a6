"""Errors, one type for each way that a caller answers them."""

from enum import StrEnum


class Cause(StrEnum):
    """Why there is no link, for logs and figures, and for how long to wait."""

    NO_ROUTE = "no route"
    NAME_RESOLUTION = "name resolution"
    CONNECT_TIMEOUT = "connect timeout"
    NO_PROGRESS = "no progress"
    LOST = "connection lost"
    REFUSED = "refused"
    RESET = "reset"
    CLOSED = "closed by the broker"
    TLS = "TLS"
    NO_CONNACK = "no CONNACK"
    REJECTED = "CONNECT rejected"
    DISCONNECTED = "DISCONNECT"
    MALFORMED = "malformed packet"
    MOVED = "address changed"
    RETURN = "return to the preferred broker"
    OURS = "closed by this side"

    @property
    def is_own_link(self) -> bool:
        """Whether the fault is the robot's own link, with no herd of others behind it."""
        return self in _OWN_LINK


_OWN_LINK = frozenset({Cause.NO_ROUTE, Cause.NAME_RESOLUTION, Cause.CONNECT_TIMEOUT, Cause.NO_PROGRESS, Cause.LOST})


class AbsentError(Exception):
    """This machine does not have the thing that a source reads. Said once at debug; nothing is wrong."""


class ReadingError(Exception):
    """One reading failed. It costs that reading only."""


class LinkDownError(Exception):
    """There is no link to the broker, or it ended. Wait, and dial again."""

    def __init__(
        self, message: str, *, cause: Cause, reason_code: int = 0, reference: str = "", silent_for: float = 0.0
    ) -> None:
        super().__init__(message)
        self.cause = cause
        self.reason_code = reason_code
        """What the server's CONNACK or DISCONNECT said (MQTT 5 section 2.4); 0 where it did not say anything."""
        self.reference = reference
        """The other servers that it named (section 4.11)."""
        self.silent_for = silent_for
        """For how many seconds nothing had been heard when the link was given up."""


class ConnectRefusedError(LinkDownError):
    """The broker answered CONNECT with a reason code of 0x80 or above (MQTT 5 section 3.2.2.2)."""

    def __init__(self, message: str, *, reason_code: int, reference: str = "") -> None:
        super().__init__(message, cause=Cause.REJECTED, reason_code=reason_code, reference=reference)


class SettingsError(Exception):
    """The settings cannot be used. Exit 78 (EX_CONFIG)."""


class StorageError(Exception):
    """The state folder or the database in it cannot be used. Exit 74 (EX_IOERR)."""


class UnavailableError(Exception):
    """A program or service that a command needs is not there. Exit 69 (EX_UNAVAILABLE)."""

"""Topics below the device's prefix, as the contract's section 2 has them."""

from dataclasses import dataclass

EVENT = "event/"
"""What the stream name of an event begins with; the names of telemetry streams have no slash."""

LOSS = "/loss"
"""The stream name of loss reports: documents of the agent's own, neither telemetry nor an event."""


RESULT = "/result"
"""The stream name of commands' results: letters, for they say themselves where they go."""

DESIRED = "desired"
_COMMAND = "cmd/"


def is_document(stream: str) -> bool:
    """Tell whether the stream is of documents of the agent's own."""
    return stream.startswith("/")


def is_name(topic: str) -> bool:
    """Tell whether something can be published on it (MQTT 5 section 4.7.1): it has no wildcards, and is not empty."""
    return topic != "" and set("+#\0").isdisjoint(topic)


def event_stream(name: str) -> str:
    """Return the stream name under which the records of the event `name` are kept."""
    return EVENT + name


def is_telemetry(stream: str) -> bool:
    """Tell whether the stream's records may be sent together, in an array on its backfill topic."""
    return "/" not in stream


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one device. `prefix` is `device/rover-7`, without a slash at its end."""

    prefix: str

    def fresh(self, stream: str) -> str:
        """Return where a record of the stream goes while it is fresh; for an event, wherever it goes at all."""
        return f"{self.prefix}/telemetry/{stream}" if is_telemetry(stream) else f"{self.prefix}/{stream.lstrip('/')}"

    def backfill(self, stream: str) -> str:
        """Return where the stream's records go in arrays once they are not fresh any more."""
        return f"{self.prefix}/telemetry/{stream}/backfill"

    def backfill_compressed(self, stream: str) -> str:
        """Return where the same arrays go zlib-compressed."""
        return self.backfill(stream) + ".z"

    def command(self, topic: str) -> str | None:
        """Return the name of the command that comes on this topic; None: it is no command's."""
        begins = f"{self.prefix}/{_COMMAND}"
        name = topic.removeprefix(begins)
        return name if topic.startswith(begins) and name and "/" not in name else None

    @property
    def commands(self) -> str:
        """Return the filter of all commands."""
        return f"{self.prefix}/{_COMMAND}+"

    def result(self, name: str) -> str:
        """Return where the result of a command goes that named no response topic."""
        return f"{self.prefix}/result/{name}"

    @property
    def desired(self) -> str:
        """Return where the desired state comes."""
        return f"{self.prefix}/{DESIRED}"

    @property
    def get_state(self) -> str:
        """Return where the agent asks for the desired state."""
        return f"{self.prefix}/get_state"

    @property
    def state(self) -> str:
        """Return where the reported state stands."""
        return f"{self.prefix}/state"

    @property
    def status(self) -> str:
        """Return where the connection status stands, and the will."""
        return f"{self.prefix}/status"

    @property
    def health(self) -> str:
        """Return where the agent's own figures go."""
        return f"{self.prefix}/health"

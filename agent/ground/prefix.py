"""Where devices stand among the topics: a prefix such as `device/+`, whose + is the device's name. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_KEPT = ("status", "state")
"""What devices publish retained. A shared subscription gets no retained messages (MQTT 5 section 4.8.2)."""
_PASSING = ("telemetry/#", "event/+", "health", "loss", "result/+", "get_state")
_MOST_NAME = 256


@dataclass(frozen=True, slots=True)
class Prefix:
    """The levels of a prefix. Where it has several +, a device's name has as many parts, joined by /."""

    levels: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Prefix":
        """Read `device/+`. Raises ValueError."""
        levels = tuple(text.split("/"))
        if "" in levels or text.startswith("$"):
            raise ValueError(f"{text!r} is no prefix: it needs topic levels that are not empty, such as device/+")
        if any(level != "+" and ("+" in level or "#" in level or "\0" in level) for level in levels):
            raise ValueError(f"{text!r} is no prefix: + stands for a whole level, and # stands nowhere")
        return cls(levels)

    def __str__(self) -> str:
        return "/".join(self.levels)

    def split(self, topic: str) -> tuple[str, Sequence[str]] | None:
        """Return the device's name and the levels below its prefix; None where the topic is no device's."""
        levels = topic.split("/")
        own, rest = levels[: len(self.levels)], levels[len(self.levels) :]
        if not rest or len(own) < len(self.levels):
            return None
        if any(mine not in ("+", there) for mine, there in zip(self.levels, own, strict=True)):
            return None
        name = "/".join(there for mine, there in zip(self.levels, own, strict=True) if mine == "+") or own[-1]
        return (name, rest) if len(name) <= _MOST_NAME else None

    def of(self, device: str) -> str:
        """Return the prefix of one device. Raises ValueError where that is no name of one."""
        parts = iter(device.split("/"))
        levels = [next(parts, "") if level == "+" else level for level in self.levels]
        topic = "/".join(levels)
        found = None if "" in levels or not set("+#\0").isdisjoint(topic) else self.split(f"{topic}/status")
        if found is None or found[0] != device:
            raise ValueError(f"{device!r} is no name of a device under {self}")
        return topic

    def filters(self, share: str | None) -> Iterator[str]:
        """Iterate over the topic filters of all that devices publish; those of a shared subscription for a `share`."""
        for below in _KEPT:
            yield f"{self}/{below}"
        for below in _PASSING:
            yield f"{self}/{below}" if share is None else f"$share/{share}/{self}/{below}"

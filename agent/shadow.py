"""The reported and the desired state (contract, sections 3 and 6): versions, and what may be set from afar. Pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Path = tuple[str, ...]

_DEEPEST = 8


def leaves(document: Mapping[str, Any], at: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Iterate over what stands in a document that is no table itself, with the way to it."""
    for name, value in document.items():
        if isinstance(value, Mapping) and len(at) < _DEEPEST:
            yield from leaves(value, (*at, name))
        else:
            yield (*at, name), value


def matches(path: Path, pattern: str) -> bool:
    """Tell whether a way is one of a pattern such as `streams.*.interval`; `*` stands for one name."""
    words = pattern.split(".")
    return len(words) == len(path) and all(word in {"*", name} for word, name in zip(words, path, strict=True))


@dataclass(slots=True, kw_only=True)
class Reported:
    """The reported state. `version` grows with each change of what is reported, across restarts too."""

    version: int = 0
    parts: dict[str, Any] = field(default_factory=dict)

    def put(self, name: str, part: object) -> bool:
        """Report a part; tell whether that changed anything. None takes it away."""
        if part is None:
            changed = self.parts.pop(name, None) is not None
        else:
            changed = self.parts.get(name) != part
            self.parts[name] = part
        self.version += changed
        return changed


@dataclass(slots=True, kw_only=True)
class Desired:
    """The desired state that was applied last, and what became of each setting in it.

    `allowed` names what may be set from afar. `setters` know how: by pattern, each takes the way and the value, applies
    it, and raises ValueError where it cannot.
    """

    allowed: Sequence[str]
    setters: Mapping[str, Callable[[Path, Any], None]]
    version: int = 0
    document: Mapping[str, Any] = field(default_factory=dict)
    applied: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def apply(self, version: int, document: Mapping[str, Any]) -> bool:
        """Apply a desired state; tell whether it was newer than the last one. An older one changes nothing."""
        if version <= self.version:
            return False
        self.version, self.document = version, document
        self.applied, self.refused = {}, {}
        for path, value in leaves(document):
            name = ".".join(path)
            try:
                self._set(path, value)
                self.applied[name] = value
            except ValueError as exc:
                self.refused[name] = str(exc)
        return True

    def _set(self, path: Path, value: object) -> None:
        setter = next((setter for pattern, setter in self.setters.items() if matches(path, pattern)), None)
        if setter is None:
            raise ValueError("it cannot be set from afar")
        if not any(matches(path, pattern) for pattern in self.allowed):
            raise ValueError("it may not be set from afar: resync.remote does not list it")
        setter(path, value)

    def told(self) -> dict[str, object]:
        """Return what the reported state says of it."""
        return {"version": self.version, "applied": self.applied, "refused": self.refused}

"""What can be read on this machine, a file each. The only door to psutil.

Sources are imported when they are made: a robot pays for those that it uses only. Other packages add theirs by entry
points in the group `roamd.sources` (docs/sources.md).
"""

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass

from agent.arguments import ArgumentError, check
from agent.sources.source import Field, Source

__all__ = ["BUILTIN", "GROUP", "STARTED", "Builtin", "Field", "Source", "find", "interval", "make", "names", "validate"]

GROUP = "roamd.sources"
"""The group of entry points in which other packages name their sources."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Builtin:
    """A source of our own: its class, as `module:class` below `agent.sources`, and how often it is read, in seconds.

    `is_started`: it has a stream of its own name without any settings.
    """

    path: str
    interval: float = 10.0
    is_started: bool = True


BUILTIN: Mapping[str, Builtin] = {
    "cpu": Builtin(path="cpu:Cpu"),
    "memory": Builtin(path="memory:Memory"),
    "disk": Builtin(path="disk:Disk"),
    "network": Builtin(path="network:Network"),
    "thermal": Builtin(path="thermal:Thermal"),
    "host": Builtin(path="host:Host"),
}
STARTED = tuple(name for name, builtin in BUILTIN.items() if builtin.is_started)
"""The sources that start without any settings."""
_INTERVAL = 10.0


def interval(name: str) -> float:
    """Return how often a source is read where the settings do not say, in seconds."""
    return BUILTIN[name].interval if name in BUILTIN else _INTERVAL


def names() -> list[str]:
    """Return the names of all sources there are, of this and of other packages."""
    from importlib.metadata import entry_points  # noqa: PLC0415  most robots have no source of another package

    return [*BUILTIN, *sorted(entry_points(group=GROUP).names - BUILTIN.keys())]


def find(name: str) -> type[Source]:
    """Return the class of a source by its name. Raises ValueError where there is none, or it cannot be imported."""
    if name in BUILTIN:
        module, _, cls = BUILTIN[name].path.partition(":")
        found: type[Source] = getattr(importlib.import_module(f"agent.sources.{module}"), cls)
        return found
    from importlib.metadata import entry_points  # noqa: PLC0415  as above

    for point in entry_points(group=GROUP, name=name):
        try:
            foreign = point.load()
        except Exception as exc:  # another package's code may raise anything
            raise ValueError(f"the source {name!r} ({point.value}) cannot be imported: {_told(exc)}") from exc
        if not (isinstance(foreign, type) and issubclass(foreign, Source)):
            raise ValueError(  # noqa: TRY004  the settings are wrong, not a call
                f"the source {name!r} ({point.value}) is no agent.sources.Source"
            )
        return foreign
    near = difflib.get_close_matches(name, known := names(), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    raise ValueError(f"there is no source {name!r}; {hint}")


def validate(name: str, options: Mapping[str, object]) -> None:
    """Raise ValueError where there is no such source, or it takes no such options."""
    if options or name not in STARTED:
        _checked(find(name), options)


def make(name: str, options: Mapping[str, object]) -> Source:
    """Return a source by its name in the settings. Raises ValueError as `validate` does."""
    source = find(name)
    return source(**_checked(source, options))


def _checked(source: type[Source], options: Mapping[str, object]) -> dict[str, object]:
    try:
        return check(source.options, options)
    except ArgumentError as exc:
        raise ValueError(f"options: {str(exc).replace('unknown argument', 'unknown key')}") from exc


def _told(exc: Exception) -> str:
    return f"{type(exc).__name__}: {exc}"

"""What every source is: declared fields, and one method with three outcomes."""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from agent.arguments import Arguments
from agent.errors import ReadingError
from agent.model import Value

_USUAL = (OSError, ValueError, LookupError, NotImplementedError)


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a source's records.

    `name` may hold a part in braces, such as `{interface}_up`, for which there is a field for each thing of that kind.
    `unit` is empty for a plain number or a text.
    """

    name: str
    unit: str
    meaning: str


class Source(ABC):
    """Something on this machine that can be read.

    `options` are what `[streams.NAME.options]` may hold: it is made with a keyword argument for each of them that is
    given or has a default. `failures` are the exceptions of a library that mean a reading has failed, beside the
    usual ones.
    """

    fields: ClassVar[tuple[Field, ...]]
    options: ClassVar[Arguments] = {}
    failures: ClassVar[tuple[type[Exception], ...]] = ()

    def read(self) -> dict[str, Value]:
        """Return the values there are, by field name; it may block.

        Rates need two readings, so the first has none. Raises AbsentError where this machine has no such thing, and
        ReadingError where this one reading failed.
        """
        failures: tuple[type[Exception], ...] = (*_USUAL, *self.failures)
        try:
            return self._read()
        except failures as exc:
            raise ReadingError(f"cannot read {type(self).__name__.lower()}: {type(exc).__name__}: {exc}") from exc

    def close(self) -> None:  # noqa: B027  most have nothing open
        """Let go of what is open; a reading in another thread may still go on, and fails then."""

    @abstractmethod
    def _read(self) -> dict[str, Value]: ...


def slug(text: str) -> str:
    """Return the text as a part of a field's name: lower case, other than letters and digits one `_`."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")

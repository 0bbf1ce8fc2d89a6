"""What every source is: declared fields, and one method with three outcomes."""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import psutil

from agent.errors import ReadingError
from agent.model import Value


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
    """Something on this machine that can be read."""

    fields: ClassVar[tuple[Field, ...]]

    def read(self) -> dict[str, Value]:
        """Return the values there are, by field name; it may block.

        Rates need two readings, so the first has none. Raises AbsentError where this machine has no such thing, and
        ReadingError where this one reading failed.
        """
        try:
            return self._read()
        except (OSError, ValueError, LookupError, NotImplementedError, psutil.Error) as exc:
            raise ReadingError(f"cannot read {type(self).__name__.lower()}: {type(exc).__name__}: {exc}") from exc

    @abstractmethod
    def _read(self) -> dict[str, Value]: ...


def slug(text: str) -> str:
    """Return the text as a part of a field's name: lower case, other than letters and digits one `_`."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")

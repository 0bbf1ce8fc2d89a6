"""What comes out of task groups: one error, where there is one kind of them."""

from collections.abc import Iterator
from contextlib import contextmanager

from agent.errors import LinkDownError


@contextmanager
def only(kind: type[Exception]) -> Iterator[None]:
    """Raise the first error of this kind out of a group that holds nothing worse; other groups stay as they are."""
    try:
        yield
    except BaseExceptionGroup as group:
        matching, rest = group.split(kind)
        if matching is None or (rest is not None and rest.split(LinkDownError)[1] is not None):
            raise
        raise _first(matching) from group


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first

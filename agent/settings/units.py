"""Durations and sizes as people write them."""

import math
import re
from typing import Annotated

from pydantic import BeforeValidator, Field

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_SIZE = re.compile(r"([0-9]{1,18})\s*(B|KiB|MiB|GiB)?")
_BYTES = {None: 1, "B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


def seconds(value: object) -> float:
    """Return a duration in seconds: a number of them, or text such as `500ms`, `10s`, `5m`, `2h`, `7d`."""
    number = _number(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not _is_finite(number):
        raise ValueError('not a duration; write seconds, or "500ms", "10s", "5m", "2h", "7d"')
    return float(number)


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond the floats
        return False


def _number(text: str) -> float | None:
    if match := _DURATION.fullmatch(text.strip()):
        return float(match[1]) * _SECONDS[match[2]]
    try:
        return float(text)
    except ValueError:
        return None


def size(value: object) -> int:
    """Return a size in bytes: a number of them, or text such as `64KiB`, `256MiB`, `1GiB`."""
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        return int(match[1]) * _BYTES[match[2]]
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError('not a size; write bytes, or "64KiB", "256MiB", "1GiB"')  # noqa: TRY004  pydantic's
    return value


def number(value: object) -> object:
    """Return the value, unless it is true or false, which Python takes for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004  pydantic's
    return value


Seconds = Annotated[float, BeforeValidator(seconds)]
WholeSeconds = Annotated[int, BeforeValidator(seconds)]
Bytes = Annotated[int, BeforeValidator(size)]
Number = Annotated[int, BeforeValidator(number)]
Band = Annotated[float, BeforeValidator(number), Field(ge=0, allow_inf_nan=False)]
"""A dead band: how far a value may move and still count as the same, in its own unit."""

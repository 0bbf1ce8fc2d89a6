"""The arguments of a command: what they may be, in words of JSON Schema, and whether they are."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from agent.pattern import MOST_TEXT, Pattern

DEEPEST = 16
"""Arrays and objects in each other."""

_INTEGERS = range(-(2**63), 2**63)
_SHOWN = 60
_TYPES = {"string": str, "number": int | float, "boolean": bool, "array": list, "object": dict}


class ArgumentError(ValueError):
    """An argument is not what it may be: the command is rejected, with this as the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """What one argument may be. Of the limits only those count that go with its type, as in JSON Schema.

    `kind` is string, number, integer, boolean, array or object. There is no default where it is None, no list of values
    where `enum` is empty.
    """

    kind: str
    description: str = ""
    is_required: bool = False
    default: object = None
    enum: tuple[object, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: Pattern | None = None
    items: "Argument | None" = None

    def schema(self) -> dict[str, object]:
        """Return the JSON Schema of the argument."""
        keywords: dict[str, object] = {
            "type": self.kind,
            "description": self.description or None,
            "default": self.default,
            "enum": list(self.enum) or None,
            "minimum": self.minimum,
            "maximum": self.maximum,
            "minLength": self.min_length,
            "maxLength": self.max_length,
            "pattern": self.pattern and self.pattern.text,
            "items": self.items and self.items.schema(),
        }
        return {name: value for name, value in keywords.items() if value is not None}


Arguments = Mapping[str, Argument]
"""What each argument of a command may be, by its name."""


def schema(arguments: Arguments) -> dict[str, object]:
    """Return the JSON Schema of the object that holds a command's arguments."""
    return {
        "type": "object",
        "properties": {name: one.schema() for name, one in arguments.items()},
        "required": [name for name, one in arguments.items() if one.is_required],
        "additionalProperties": False,
    }


def check(arguments: Arguments, given: Mapping[str, object]) -> dict[str, object]:
    """Return what a command runs with: the arguments given, and the defaults of the others. Raises ArgumentError."""
    for name in given:
        if name not in arguments:
            known = f"known here: {', '.join(sorted(arguments))}" if arguments else "there are none"
            raise ArgumentError(f"unknown argument {name!r:.{_SHOWN}}; {known}")
    checked: dict[str, object] = {}
    for name, argument in arguments.items():
        if name in given:
            checked[name] = check_one(name, argument, given[name])
        elif argument.default is not None:
            checked[name] = check_one(name, argument, argument.default)
        elif argument.is_required:
            raise ArgumentError(f"{name} is missing")
    return checked


def check_one(name: str, argument: Argument, value: object) -> object:
    """Return one argument's value, an integer as such. Raises ArgumentError, and nothing else whatever the value is."""
    if not _is_a(argument.kind, value):
        raise ArgumentError(f"{name} must be {'an' if argument.kind[0] in 'aio' else 'a'} {argument.kind}")
    if argument.kind == "integer" and isinstance(value, float):
        value = int(value)
    if not is_plain(value):
        raise ArgumentError(f"{name} is not finite, beyond 64 bits, too deep, or has NUL or what is not UTF-8")
    if argument.enum and value not in argument.enum:
        raise ArgumentError(f"{name} must be one of {_shown(list(argument.enum))}, not {_shown(value)}")
    match value:
        case bool():
            pass
        case int() | float():
            _check_number(name, argument, value)
        case str():
            _check_string(name, argument, value)
        case list() if argument.items is not None:
            return [check_one(f"{name}[{place}]", argument.items, one) for place, one in enumerate(value)]
    return value


def is_plain(value: object, *, deep: int = DEEPEST) -> bool:
    """Tell whether a value can go to anyone as JSON: 64-bit integers, finite numbers, true UTF-8 without NUL, not deep.

    Python's JSON reader takes more: NaN, 1e999, integers without end, halves of surrogate pairs.
    """
    match value:
        case int() | None:
            return value is None or value in _INTEGERS
        case float():
            return math.isfinite(value)
        case str():
            return not any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in value)
        case list():
            return deep > 0 and all(is_plain(one, deep=deep - 1) for one in value)
        case dict():
            return deep > 0 and all(is_plain(name) and is_plain(one, deep=deep - 1) for name, one in value.items())
    return False


def text(value: object) -> str:
    """Return a value as text for a program: a string as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _is_a(kind: str, value: object) -> bool:
    """Tell whether a value is of the type. As in JSON Schema, 1.0 is an integer, and true is no number."""
    if kind == "integer":
        return not isinstance(value, bool) and (
            isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        )
    return isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _check_number(name: str, argument: Argument, value: float) -> None:
    if argument.minimum is not None and value < argument.minimum:
        raise ArgumentError(f"{name} = {value} is below the minimum, {argument.minimum}")
    if argument.maximum is not None and value > argument.maximum:
        raise ArgumentError(f"{name} = {value} is above the maximum, {argument.maximum}")


def _check_string(name: str, argument: Argument, value: str) -> None:
    if argument.min_length is not None and len(value) < argument.min_length:
        raise ArgumentError(f"{name} has {len(value)} characters, fewer than {argument.min_length}")
    if argument.max_length is not None and len(value) > argument.max_length:
        raise ArgumentError(f"{name} has {len(value)} characters, more than {argument.max_length}")
    if argument.pattern is None:
        return
    if len(value) > MOST_TEXT:
        raise ArgumentError(f"{name} has {len(value)} characters; with a pattern it may have {MOST_TEXT}")
    if not argument.pattern.matches(value):
        raise ArgumentError(f"{name} = {_shown(value)} does not match {argument.pattern.text}")


def _shown(value: object) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."

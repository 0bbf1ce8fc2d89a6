import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.arguments import DEEPEST, Argument, ArgumentError, check, is_plain, schema, text
from agent.commands.program import Program
from agent.commands.table import BUILTIN, Command, described, refusal
from agent.pattern import Pattern

KINDS = ("string", "number", "integer", "boolean", "array", "object")
SPEED = {"speed": Argument(kind="number", minimum=0.1, maximum=2, is_required=True)}
LIMITS = st.none() | st.integers(-10, 10)
ARGUMENTS = st.recursive(
    st.builds(
        Argument,
        kind=st.sampled_from(KINDS),
        minimum=LIMITS,
        maximum=LIMITS,
        min_length=st.none() | st.integers(0, 4),
        max_length=st.none() | st.integers(0, 4),
        pattern=st.none() | st.sampled_from([Pattern("^a+$"), Pattern("b")]),
        is_required=st.booleans(),
    ),
    lambda inner: st.builds(Argument, kind=st.just("array"), items=inner),
    max_leaves=3,
)
TEXTS = st.text(st.characters(), max_size=5) | st.sampled_from(["\ud800", "\0", "a" * 2000])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXTS
    | st.sampled_from([10**400, -(2**63), 2**63, 1e300]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
)


def refused(arguments: dict[str, Argument], **given: object) -> str:
    with pytest.raises(ArgumentError) as error:
        check(arguments, given)
    return str(error.value)


def one(kind: str, **limits: Any) -> dict[str, Argument]:  # noqa: ANN401  as Argument has them
    return {"x": Argument(kind=kind, **limits)}


def nested(depth: int) -> object:
    return [nested(depth - 1)] if depth else 1


@given(arguments=st.dictionaries(TEXTS, ARGUMENTS, max_size=3), given_=st.dictionaries(TEXTS, VALUES, max_size=3))
def test_whatever_is_given_is_refused_or_can_go_to_anyone(
    arguments: dict[str, Argument], given_: dict[str, object]
) -> None:
    try:
        checked = check(arguments, given_)
    except ArgumentError as exc:
        assert str(exc).isprintable() or any(not name.isprintable() for name in arguments)  # noqa: PT017
        return
    assert {name for name, argument in arguments.items() if argument.is_required} <= set(checked) <= set(arguments)
    for value in checked.values():
        assert json.loads(json.dumps(value, allow_nan=False)) == value
        assert "\0" not in text(value).encode().decode()


@given(value=VALUES, argument=ARGUMENTS)
def test_a_value_is_of_its_type_and_within_its_limits(value: object, argument: Argument) -> None:
    try:
        checked = check({"x": argument}, {"x": value})["x"]
    except ArgumentError:
        return
    types = {"string": str, "number": int | float, "integer": int, "boolean": bool, "array": list, "object": dict}
    assert isinstance(checked, types[argument.kind])
    assert checked == value
    if argument.kind in {"number", "integer"}:
        assert not isinstance(checked, bool)
        assert (-math.inf if argument.minimum is None else argument.minimum) <= checked
        assert checked <= (math.inf if argument.maximum is None else argument.maximum)
    if isinstance(checked, str):
        assert (
            (argument.min_length or 0) <= len(checked) <= (9999 if argument.max_length is None else argument.max_length)
        )


def test_the_reason_names_the_argument_and_what_it_may_be() -> None:
    assert refused(SPEED) == "speed is missing"
    assert refused(SPEED, speed="fast") == "speed must be a number"
    assert refused(SPEED, speed=True) == "speed must be a number"
    assert refused(one("integer"), x=False) == "x must be an integer"
    assert refused(one("boolean"), x=1) == "x must be a boolean"
    assert refused(SPEED, speed=None) == "speed must be a number"
    assert refused(SPEED, speed=0) == "speed = 0 is below the minimum, 0.1"
    assert refused(SPEED, speed=2.5) == "speed = 2.5 is above the maximum, 2"
    assert refused(SPEED, spead=1) == "unknown argument 'spead'; known here: speed"
    assert refused({}, x=1) == "unknown argument 'x'; there are none"
    assert refused(one("integer"), x=1.5) == "x must be an integer"
    assert refused(one("string", min_length=2), x="a") == "x has 1 characters, fewer than 2"
    assert refused(one("string", max_length=2), x="abc") == "x has 3 characters, more than 2"
    assert refused(one("string", pattern=Pattern("^a$")), x="b") == 'x = "b" does not match ^a$'
    assert refused(one("string", pattern=Pattern("a")), x="a" * 1001).endswith("with a pattern it may have 1000")
    assert refused(one("string", enum=("on", "off")), x="of") == 'x must be one of ["on", "off"], not "of"'
    assert refused(one("array", items=Argument(kind="array", items=Argument(kind="string"))), x=[[], ["a", 2]]) == (
        "x[1][1] must be a string"
    )
    assert len(refused(one("string", enum=("a",)), x="b" * 10_000)) < 200


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("number", math.nan), ("number", math.inf), ("number", 10**400), ("integer", 2**63), ("integer", 1e300),
        ("string", "\ud800"), ("string", "a\0b"), ("object", {"\0": 1}), ("object", {"a": {"b": [math.nan]}}),
        ("array", nested(DEEPEST + 1)), ("array", nested(900)),
    ],
)  # fmt: skip
def test_what_others_could_not_read_is_refused(kind: str, value: object) -> None:
    assert refused(one(kind), x=value).startswith("x is not finite, beyond 64 bits, too deep, or has")


def test_an_integer_may_be_written_with_a_point_and_is_one_then() -> None:
    checked = check(one("integer"), {"x": 3.0})["x"]
    assert (checked, type(checked)) == (3, int)


def test_defaults_are_put_in_and_what_is_optional_stays_away() -> None:
    arguments = {"a": Argument(kind="boolean", default=False), "b": Argument(kind="string")}
    assert check(arguments, {}) == {"a": False}
    assert check(arguments, {"a": True, "b": ""}) == {"a": True, "b": ""}


def test_python_reads_what_is_not_plain() -> None:
    for wrong in ("NaN", "-Infinity", "1e999", r'"\ud800"', r'"\u0000"', "9" * 30):
        assert not is_plain(json.loads(f'{{"a":[{wrong}]}}'))
    assert is_plain(json.loads('{"a":[null,true,-1.5,"\U0001f916"]}'))
    assert not is_plain(object())


# The table.


def test_a_command_tells_what_is_wrong_with_its_arguments() -> None:
    dock = Command(name="dock", arguments=SPEED, program=Program(argv=("dock",)))
    assert dock.refusal({"speed": 1}) == ""
    assert "unknown argument 'x'" in dock.refusal({"x": 1})
    assert refusal(BUILTIN["ping"], {"x": 1}) == "unknown argument 'x'; there are none"


def test_the_description_is_json_schema() -> None:
    full = {
        "berth": Argument(kind="string", description="where", enum=("a",), min_length=0, max_length=3,
                          pattern=Pattern("a"), is_required=True),
        "way": Argument(kind="array", default=[], items=Argument(kind="integer", minimum=0, maximum=0)),
    }  # fmt: skip
    told = described({**BUILTIN, "dock": full})
    assert set(told) == {*BUILTIN, "dock"}
    assert told["ping"] == {"args": schema({})}
    assert told["dock"] == {
        "args": {
            "type": "object",
            "properties": {
                "berth": {"type": "string", "description": "where", "enum": ["a"], "minLength": 0, "maxLength": 3,
                          "pattern": "a"},
                "way": {"type": "array", "default": [], "items": {"type": "integer", "minimum": 0, "maximum": 0}},
            },
            "required": ["berth"],
            "additionalProperties": False,
        }
    }  # fmt: skip

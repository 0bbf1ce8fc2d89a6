"""Patterns of arguments, with Python's `re` as the judge where it can be one."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.pattern import MOST_TEXT, Pattern, PatternError

ATOMS = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", r"\d", r"\W", r"\.", "[a-c0]", r"[\]\\-]", "[]a]", "-"])
QUANTIFIERS = st.sampled_from(["*", "+", "?", "{2}", "{0,2}", "{1,3}", "{2,}", "{0,}"])
INNER = st.recursive(
    ATOMS,
    lambda one: st.one_of(
        st.lists(one, min_size=1, max_size=3).map("".join),
        st.lists(one, min_size=1, max_size=3).map(lambda parts: f"({'|'.join(parts)})"),
        st.tuples(one, QUANTIFIERS).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
    ),
    max_leaves=6,
)
TEXTS = st.text("ab0.-]\\ \nä", max_size=8)


@given(pattern=INNER, start=st.sampled_from(["", "^"]), end=st.sampled_from(["", "$"]), text=TEXTS)
def test_it_finds_what_re_finds(pattern: str, start: str, end: str, text: str) -> None:
    try:
        ours = Pattern(f"{start}{pattern}{end}")
    except PatternError as exc:
        assert re.search("large|more than 200", str(exc))  # noqa: PT017
        return
    theirs = re.compile(rf"{start and '^'}(?:{pattern}){end and '(?!.|[^.])'}", re.ASCII)
    assert ours.matches(text) == bool(theirs.search(text))


@given(text=st.text(r"ab01[]^$(){}|*+?,\-.dwz:&~", max_size=12))
def test_a_pattern_whatever_is_a_pattern_error_at_worst_and_else_one_for_re_as_well(text: str) -> None:
    try:
        ours = Pattern(text)
    except PatternError as exc:
        assert str(exc).startswith(("has ", "is ", "matches "))  # noqa: PT017
        return
    assert ours.matches("ab01") == bool(re.search(re.sub(r"\$\Z", r"\\Z", text), "ab01", re.ASCII))


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("^(a+)+$", "a" * 999 + "!"),
        ("^(a|a)*$", "a" * 999 + "!"),
        ("(a*)*b", "a" * 1000),
        ("^((((a+)+)+)+)+$", "a" * 999 + "!"),
        (".*.*.*.*=.*", "x" * 1000),
        ("((a?){14}){14}b", "a" * 1000),
        (r"^(\w+\s?)*$", "word " * 199 + "!"),
    ],
)
def test_nested_quantifiers_do_not_block(pattern: str, text: str) -> None:
    one = Pattern(pattern)
    started = time.process_time()
    assert not one.matches(text)
    assert time.process_time() - started < 2  # re takes longer than the universe is old


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("(a", "has a ( without its )"),
        ("a)", "has ')' at a place where it has no meaning"),
        ("a**", "has '*' at a place where it has no meaning"),
        ("a+?", "has '?' at a place where it has no meaning"),
        ("{2}", "has '{2' at a place where it has no meaning"),
        ("a^b", "has '^b' at a place where it has no meaning"),
        ("a$b", "has '$b' at a place where it has no meaning"),
        ("^a|b$", "has a | beside ^ or $"),
        ("[a", "has '[a' at a place where it has no meaning"),
        ("[z-a]", "has [z-a]: bad character range z-a"),
        ("[[:alpha:]]", "in a class write"),
        ("[a--b]", "in a class write"),
        (r"[\b]", "in a class write"),
        ("\\", "has '\\\\' at a place"),
        (r"\bx", r"has '\\b' at a place"),
        (r"(a)\1", r"has '\\1' at a place"),
        ("(?=a)", "has (?=, which is not known here"),
        ("(?i:a)", "has (?i, which is not known here"),
        ("a{3,2}", "the second number is below the first"),
        ("a{0}", "matches nothing"),
        ("a{999}", "more than 200 letters"),
        ("(|){999}{999}", "has '{9' at a place"),
        ("((|){999}){999}", "is too large"),
        ("(" * 21 + ")" * 21, "more than 20 groups"),
        ("a" * 501, "longer than 500 characters"),
    ],
)
def test_what_is_not_known_is_told(pattern: str, told: str) -> None:
    with pytest.raises(PatternError) as error:
        Pattern(pattern)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("pattern", "found", "not_found"),
    [
        ("^a{2,}$", ["aa", "aaaaa"], ["a", ""]),
        ("^a{2}$", ["aa"], ["a", "aaa"]),
        ("^(ab){1,2}$", ["ab", "abab"], ["", "ababab", "aba"]),
        ("^(a|b)?c*$", ["", "a", "bcc"], ["ab", "d"]),
        (r"^\w\d\W$", ["a1 ", "_0\u00e4"], ["\u00e41 ", "a\u0661 "]),
        ("b", ["abc", "b"], ["", "ac"]),
        ("^b", ["bc"], ["ab"]),
        ("b$", ["ab"], ["bc"]),
        ("", ["", "a"], []),
        ("^$", [""], ["a"]),
        (r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", ["01234567-89ab-cdef-0123-456789abcdef"], ["01234567"]),
    ],
)
def test_what_is_found(pattern: str, found: list[str], not_found: list[str]) -> None:
    one = Pattern(pattern)
    assert [text for text in (*found, *not_found) if one.matches(text)] == found


def test_the_end_is_the_end_and_no_newline_before_it() -> None:
    assert not Pattern("^a$").matches("a\n")
    assert Pattern(r"a\$").matches("xa$y")
    assert Pattern(r"^a\\$").matches("a\\")


def test_a_longer_text_does_not_match() -> None:
    assert Pattern("^a*$").matches("a" * MOST_TEXT)
    assert not Pattern("^a*$").matches("a" * (MOST_TEXT + 1))

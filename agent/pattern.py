r"""Regular expressions that take linear time, whatever is matched: what they test comes from the network.

Python's `re` tries one way after the other and cannot be stopped: `(a+)+$` on thirty letters takes minutes. Here all
ways are followed at once (Glushkov's automaton, as bits of an integer). Known are letters, `.`, classes, `\d \w \s` and
their capitals (ASCII), groups, `|`, and the quantifiers `* + ? {m} {m,} {m,n}`; `^` stands at the beginning only, and
`$` at the end. As in JSON Schema, a pattern without them is sought anywhere in the text.
"""

import re
from dataclasses import dataclass

MOST_TEXT = 1000
"""Characters; what is longer does not match. With MOST_PLACES it bounds the time of one match."""

_MOST_PATTERN = 500  # characters
_MOST_PLACES = 200  # letters, after counted repetitions are written out
_MOST_READ = 2000  # atoms, repetitions written out
_DEEPEST = 20  # groups in groups
_ATOM = re.compile(
    r"\[(?P<body>\^?\]?(?:\\.|[^\]\\])*)\]|\\(?:[dwsDWSnrtfv]|[^A-Za-z0-9])|[^\\\[\](){}|*+?^$]", re.DOTALL
)
_NO_CLASS = re.compile(r"\\[A-Za-z0-9](?<!\\[dwsDWSnrtfv])|(?<!\\)\[|--|&&|~~|\|\|")
_QUANTIFIER = re.compile(r"\*|\+|\?|\{([0-9]{1,3})(,([0-9]{1,3})?)?\}")


class PatternError(ValueError):
    """A pattern is none, or has what is not known here. The message goes on from a name: `is too large`."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a pattern: whether it matches the empty text, and the places where it may begin and end, as bits."""

    is_empty: bool
    first: int
    last: int


_NOTHING = _Part(is_empty=True, first=0, last=0)


class Pattern:
    """A regular expression. Raises PatternError where it is none, or has what would not be linear."""

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > _MOST_PATTERN:
            raise PatternError(f"is longer than {_MOST_PATTERN} characters")
        self._from_start = text.startswith("^")
        self._to_end = text.endswith("$") and (len(text) - len(text[:-1].rstrip("\\"))) % 2 == 1
        reader = _Reader(text[1 if self._from_start else 0 : -1 if self._to_end else None])
        self._whole = reader.whole(is_anchored=self._from_start or self._to_end)
        self._letters = tuple(reader.letters)
        self._follow = tuple(reader.follow)

    def matches(self, text: str) -> bool:
        """Tell whether the pattern is found in the text."""
        if len(text) > MOST_TEXT:
            return False
        if self._whole.is_empty and not (self._from_start and self._to_end and text):
            return True
        reached, masks = 0, dict[str, int]()
        for place, letter in enumerate(text):
            if letter not in masks:
                masks[letter] = sum(1 << n for n, one in enumerate(self._letters) if one.fullmatch(letter))
            begin = self._whole.first if place == 0 or not self._from_start else 0
            reached = (begin | self._after(reached)) & masks[letter]
            if not reached and self._from_start:
                return False
            if reached & self._whole.last and not self._to_end:
                return True
        return bool(reached & self._whole.last)

    def _after(self, reached: int) -> int:
        after = 0
        while reached:
            lowest = reached & -reached
            after |= self._follow[lowest.bit_length() - 1]
            reached ^= lowest
        return after


class _Reader:
    """Reads a pattern without its anchors, and numbers its letters."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._read = 0
        self._depth = 0
        self.letters: list[re.Pattern[str]] = []
        self.follow: list[int] = []
        """For each letter, those that may come next, as bits."""

    def whole(self, *, is_anchored: bool) -> _Part:
        part = self._sequence()
        if is_anchored and self._next("|"):
            raise PatternError("has a | beside ^ or $; put the alternatives into brackets: ^(a|b)$")
        while self._took("|"):
            part = _either(part, self._sequence())
        if self._at < len(self._text):
            raise PatternError(f"has {self._text[self._at]!r} at a place where it has no meaning; write \\ before it")
        return part

    def _next(self, text: str) -> bool:
        return self._text.startswith(text, self._at)

    def _took(self, text: str) -> bool:
        if found := self._next(text):
            self._at += len(text)
        return found

    def _sequence(self) -> _Part:
        part = _NOTHING
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            part = self._then(part, self._repeated())
        return part

    def _repeated(self) -> _Part:
        start = self._at
        part = self._atom()
        found = _QUANTIFIER.match(self._text, self._at)
        if found is None:
            return part
        after = found.end()
        least = {"*": 0, "+": 1, "?": 0}.get(found[0]) if found[1] is None else int(found[1])
        most: int | None = {"?": 1}.get(found[0]) if found[1] is None else int(found[3] or found[1])
        if found[2] == ",":
            most = None
        assert least is not None
        if most is not None and most < least:
            raise PatternError(f"has {found[0]}, where the second number is below the first")
        if most == 0:
            raise PatternError(f"has {found[0]}, which matches nothing")
        if least == 0:
            part = _Part(is_empty=True, first=part.first, last=part.last)
        for copy in range(1, max(least, most or 1)):
            self._at = start
            again = self._atom()
            is_empty = again.is_empty or copy >= least
            if most is None and copy == least - 1:
                self._loop(again)
            part = self._then(part, _Part(is_empty=is_empty, first=again.first, last=again.last))
        if most is None and least <= 1:
            self._loop(part)
        self._at = after
        return part

    def _atom(self) -> _Part:
        self._read += 1
        if self._read > _MOST_READ:
            raise PatternError("is too large")
        if self._took("("):
            return self._group()
        found = _ATOM.match(self._text, self._at)
        if found is None:
            raise PatternError(f"has {self._text[self._at :][:2]!r} at a place where it has no meaning")
        if found["body"] and _NO_CLASS.search(found["body"]):
            raise PatternError(
                f"has {found[0]}; in a class write \\ before [ - & ~ and |, and only \\d \\w \\s of the letters"
            )
        if len(self.letters) == _MOST_PLACES:
            raise PatternError(f"matches more than {_MOST_PLACES} letters, repetitions written out")
        try:
            self.letters.append(re.compile(found[0], re.ASCII))
        except re.error as exc:
            raise PatternError(f"has {found[0]}: {exc.msg}") from exc
        self.follow.append(0)
        self._at = found.end()
        bit = 1 << (len(self.letters) - 1)
        return _Part(is_empty=False, first=bit, last=bit)

    def _group(self) -> _Part:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise PatternError(f"has more than {_DEEPEST} groups in each other")
        if not self._took("?:") and self._next("?"):
            raise PatternError(f"has ({self._text[self._at :][:2]}, which is not known here")
        part = self._sequence()
        while self._took("|"):
            part = _either(part, self._sequence())
        if not self._took(")"):
            raise PatternError("has a ( without its )")
        self._depth -= 1
        return part

    def _then(self, one: _Part, other: _Part) -> _Part:
        self._link(one.last, other.first)
        return _Part(
            is_empty=one.is_empty and other.is_empty,
            first=one.first | (other.first if one.is_empty else 0),
            last=other.last | (one.last if other.is_empty else 0),
        )

    def _loop(self, part: _Part) -> None:
        self._link(part.last, part.first)

    def _link(self, last: int, first: int) -> None:
        for place in range(last.bit_length()):
            if last >> place & 1:
                self.follow[place] |= first


def _either(one: _Part, other: _Part) -> _Part:
    return _Part(is_empty=one.is_empty or other.is_empty, first=one.first | other.first, last=one.last | other.last)

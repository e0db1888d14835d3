"""The few value templates that can be understood without a template engine: a place in the payload and a factor.

    {{ value }}   {{ value_json.a.b }}   {{ value_json["a"]["b"][0] | float / 10 }}   {{ (value_json.x * 2)|round(1) }}

Home Assistant's templates are Jinja2 and could do anything; nothing here runs one. What is not of this form is
refused. Rounding and conversion to a number change nothing that matters and are passed over.
"""

import re
from dataclasses import dataclass
from typing import Final

_LONGEST: Final = 512
_DEEPEST: Final = 8
_OUTER: Final = re.compile(r"\{\{-?(.*?)-?\}\}", re.DOTALL)
_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d{1,2})?)|(?P<word>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<text>"[^"\\]*"|'[^'\\]*')|(?P<mark>[.\[\]()|*/,-]))""",
    re.VERBOSE,
)
# Filters that leave a number what it is. The arguments of the last two are not used.
_FILTERS: Final = frozenset({"float", "int", "round", "is_defined", "default"})


@dataclass(frozen=True, slots=True)
class Template:
    """Where the value is (keys and positions inside the JSON payload; None: the payload is the value), and what to
    make of it: ``value * times / by``.
    """

    path: tuple[str | int, ...] | None
    times: float = 1.0
    by: float = 1.0


class _NotUnderstoodError(ValueError):
    pass


def parse_template(text: str) -> Template | None:
    """The template's meaning, None where it is not one of those understood."""
    outer = _OUTER.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    if outer is None:
        return None
    try:
        tokens = _tokens(outer[1])
        parser = _Parser(tokens)
        found = parser.expression(0)
        if parser.rest:
            return None
    except _NotUnderstoodError:
        return None
    return found if found.times and found.by else None


def _tokens(text: str) -> list[tuple[str, str]]:
    found, position, end = [], 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            raise _NotUnderstoodError
        found.append((match.lastgroup, match[match.lastgroup]))
        position = match.end()
    return found


class _Parser:
    """expression = term (("*" | "/") number filters)*; term = "(" expression ")" filters | place filters"""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens
        self._at = 0

    @property
    def rest(self) -> bool:
        return self._at < len(self._tokens)

    def expression(self, depth: int) -> Template:
        if depth > _DEEPEST:
            raise _NotUnderstoodError
        found = self._term(depth)
        while self._take("*") or self._peek("/"):
            divides = self._take("/")
            factor = self._number()
            self._filters()
            times, by = (found.times, found.by * factor) if divides else (found.times * factor, found.by)
            found = Template(found.path, times, by)
        return found

    def _term(self, depth: int) -> Template:
        if self._take("("):
            found = self.expression(depth + 1)
            self._need(")")
        else:
            found = Template(self._place())
        self._filters()
        return found

    def _place(self) -> tuple[str | int, ...] | None:
        word = self._next("word")
        if word == "value":
            return None
        if word != "value_json":
            raise _NotUnderstoodError
        path: list[str | int] = []
        while True:
            if self._take("."):
                path.append(self._next("word"))
            elif self._take("["):
                kind, text = self._any("text", "number")
                if kind == "number" and not text.isdigit():
                    raise _NotUnderstoodError
                path.append(text[1:-1] if kind == "text" else int(text))
                self._need("]")
            else:
                return tuple(path)

    def _filters(self) -> None:
        while self._take("|"):
            if self._next("word") not in _FILTERS:
                raise _NotUnderstoodError
            if self._take("("):
                self._arguments()

    def _arguments(self) -> None:
        while not self._take(")"):
            self._take("-")
            self._any("number", "text", "word")
            self._take(",")

    def _number(self) -> float:
        sign = -1.0 if self._take("-") else 1.0
        return sign * float(self._next("number"))

    def _peek(self, mark: str) -> bool:
        return self.rest and self._tokens[self._at] == ("mark", mark)

    def _take(self, mark: str) -> bool:
        there = self._peek(mark)
        self._at += there
        return there

    def _need(self, mark: str) -> None:
        if not self._take(mark):
            raise _NotUnderstoodError

    def _next(self, kind: str) -> str:
        return self._any(kind)[1]

    def _any(self, *kinds: str) -> tuple[str, str]:
        if not self.rest or self._tokens[self._at][0] not in kinds:
            raise _NotUnderstoodError
        self._at += 1
        return self._tokens[self._at - 1]

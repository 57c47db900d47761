"""Reading a completion: which spans its delimiters mark, where, and what is wrong with them.

Nothing here knows how a schema is declared: `OutputSchema.grammar` says all that reading needs.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from string import ascii_lowercase, ascii_uppercase
from typing import Literal, NamedTuple, get_args

from rl_empathy.schema.content import CONTENT_ERRORS, ContentError

LayoutError = Literal["missing", "order", "duplicate", "empty", "text_outside", "unclosed"]
ErrorKind = LayoutError | ContentError
ERROR_KINDS: tuple[ErrorKind, ...] = (*get_args(LayoutError), *CONTENT_ERRORS)
_ASCII_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)


class Span(NamedTuple):
    """Text of a span, stripped: `text == completion[start:end]`, offsets in characters."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedCompletion:
    """The spans that were found with some text, and the kinds of error, in the order of ERROR_KINDS."""

    spans: Mapping[str, Span]
    errors: tuple[ErrorKind, ...]

    @property
    def valid(self) -> bool:
        return not self.errors

    def text_of(self, name: str) -> str:
        """The text of a span, "" when the completion lacks it."""
        return self.spans[name].text if name in self.spans else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """A schema compiled for reading. Delimiters are in lower case; "" is the beginning of the text."""

    pattern: re.Pattern[str]
    """Matches any delimiter."""
    order: Mapping[str, int]
    """Place of each delimiter in the order of rendering."""
    opens: Mapping[str, str]
    """Name of the span that begins after a delimiter."""
    closes: Mapping[str, str]
    """Delimiter after each span, "" for a span that ends at whatever comes next."""
    wrappers: Sequence[tuple[str, str]]
    """Opening and closing delimiter of each wrapper."""
    longest: int
    """Characters of the longest delimiter."""


class Reading(NamedTuple):
    """What stands in a text, before it is decided which of it is an error."""

    spans: dict[str, Span]
    delimiters: list[str]
    kinds: set[ErrorKind]


def read_spans(text: str, grammar: Grammar) -> Reading:
    """Find the delimiters of any text and the spans between them, in time linear in its length.

    Delimiters count in any case and order, the first of duplicates wins, and an unclosed span goes up to the
    next delimiter or the end.
    """
    matches = list(grammar.pattern.finditer(text))
    delimiters = ["", *(folded(match.group()) for match in matches)]
    bounds = [0, *(offset for match in matches for offset in match.span()), len(text)]
    spans, begun, kinds = dict[str, Span](), set[str](), set[ErrorKind]()
    for i, delimiter in enumerate(delimiters):
        span = _stripped(text, bounds[2 * i], bounds[2 * i + 1])
        name = grammar.opens.get(delimiter)
        if name is None and span.text:
            kinds.add("text_outside")
        if name is None or name in begun:
            continue
        begun.add(name)
        if span.text:
            spans[name] = span
        else:
            kinds.add("empty")
        close = grammar.closes[name]
        if close and close != (delimiters[i + 1] if i + 1 < len(delimiters) else ""):
            kinds.add("unclosed")
    if len(begun) < len(grammar.closes):
        kinds.add("missing")
    return Reading(spans, delimiters[1:], kinds)


def delimiter_errors(delimiters: Sequence[str], grammar: Grammar) -> set[ErrorKind]:
    """What is wrong with the delimiters alone: used twice, out of order, a wrapper's half left out."""
    kinds = set[ErrorKind]()
    first_uses = list(dict.fromkeys(delimiters))
    if len(first_uses) < len(delimiters):
        kinds.add("duplicate")
    if any(grammar.order[one] > grammar.order[other] for one, other in pairwise(first_uses)):
        kinds.add("order")
    for opening, closing in grammar.wrappers:
        if opening not in first_uses:
            kinds.add("missing")
        elif closing not in first_uses:
            kinds.add("unclosed")
    return kinds


def folded(text: str) -> str:
    """ASCII letters in lower case: never changes the length, and agrees with `re.IGNORECASE | re.ASCII`."""
    return text.translate(_ASCII_LOWER)


def _stripped(text: str, start: int, end: int) -> Span:
    inner = text[start:end]
    body = inner.strip()
    start += len(inner) - len(inner.lstrip())
    return Span(body, start, start + len(body))

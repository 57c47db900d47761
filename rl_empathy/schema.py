"""The output schema: which named spans a completion has, how they are written and read back (C11).

spans ──render──> text ──parse──> spans with offsets ──span_token_masks──> loss masks and lengths
                    └── StreamingSplitter ──> reasoning | answer, as the text arrives
"""

import difflib
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise
from string import ascii_lowercase, ascii_uppercase
from typing import Annotated, Literal, NamedTuple, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

ErrorKind = Literal["missing", "order", "duplicate", "empty", "text_outside", "unclosed"]
Part = Literal["reasoning", "answer"]
Name = Annotated[str, Field(pattern=r"^[\w\-]+$")]

ERROR_KINDS: tuple[ErrorKind, ...] = get_args(ErrorKind)
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


class _Declaration(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class SpanConfig(_Declaration):
    """One named span.

    A heading has an empty `close`: its span ends at the next delimiter. A span with an empty `open` begins
    where the delimiter before it ends, or with the text: the reply after `</think>`, for example.
    """

    name: Name
    """Name of the span, in metrics too."""
    open: str = ""
    """Delimiter before the text."""
    close: str = ""
    """Delimiter after the text."""
    hidden: bool = False
    """Keep the span from the reader when serving."""
    description: str = ""
    """What the span holds, for the instruction."""
    description_zh: str = ""
    """The same in Chinese."""


class WrapperConfig(_Declaration):
    """A pair of delimiters around several spans, such as `<empathy_think>`."""

    open: Annotated[str, Field(min_length=1)]
    """Delimiter before the first span."""
    close: Annotated[str, Field(min_length=1)]
    """Delimiter after the last span."""
    first: Name
    """Name of the first span inside."""
    last: Name
    """Name of the last span inside."""


@dataclass(frozen=True, slots=True)
class _Grammar:
    """A schema compiled for reading. Keys are delimiters in lower case; "" is the beginning of the text."""

    pattern: re.Pattern[str]
    order: Mapping[str, int]
    opens: Mapping[str, str]
    longest: int


class OutputSchema(_Declaration):
    r"""Named spans in order, with their delimiters; strict parsing accepts exactly what `render` writes.

    Example: a heading before the analysis, the answer in tags:
        schema:
          name: headed
          inside: "\n"
          spans:
            - {name: analysis, open: "# Analysis", hidden: true}
            - {name: answer, open: "<answer>", close: "</answer>"}
    """

    name: Name
    """Name of the schema."""
    spans: Annotated[tuple[SpanConfig, ...], Field(min_length=1)]
    """The spans in the order in which they are written."""
    wrappers: tuple[WrapperConfig, ...] = ()
    """Delimiters around several spans; wrappers do not overlap."""
    answer: Name = "answer"
    """Name of the span that is the reply to the help-seeker; the other spans are the reasoning."""
    inside: Annotated[str, Field(pattern=r"^\s*$")] = ""
    """White space between a delimiter and the text of its span."""
    between: Annotated[str, Field(pattern=r"^\s*$")] = "\n"
    """White space between spans, and between a wrapper's delimiters and its spans."""

    @property
    def span_names(self) -> tuple[str, ...]:
        return tuple(span.name for span in self.spans)

    @property
    def delimiters(self) -> tuple[str, ...]:
        """Every delimiter in the order of rendering, for a tokenizer that holds them as special tokens."""
        return tuple(delimiter for _, delimiter in self._pieces if delimiter)

    @property
    def _pieces(self) -> list[tuple[str, str]]:
        """What is written in order: (span that begins after the delimiter or "", delimiter)."""
        pieces: list[tuple[str, str]] = []
        for span in self.spans:
            pieces += [("", wrapper.open) for wrapper in self.wrappers if wrapper.first == span.name]
            pieces += [(span.name, span.open), ("", span.close)]
            pieces += [("", wrapper.close) for wrapper in self.wrappers if wrapper.last == span.name]
        return pieces

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        names = self.span_names
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(f"span names must differ, got {twice[0]!r} more than once")
        wanted = [self.answer, *(name for wrapper in self.wrappers for name in (wrapper.first, wrapper.last))]
        for name in wanted:
            if name not in names:
                raise ValueError(f"no span is named {name!r}; the spans are {', '.join(names)}")
        if self.spans[names.index(self.answer)].hidden:
            raise ValueError(
                f"the answer span {self.answer!r} is hidden; hide the reasoning, or set hidden: false"
            )
        inner = [names.index(name) for name in wanted[1:]]
        starts, ends = inner[::2], inner[1::2]
        if any(start > end for start, end in zip(starts, ends, strict=True)) or any(
            end >= start for end, start in zip(ends, starts[1:], strict=False)
        ):
            raise ValueError(
                "wrappers must be listed in the order of the spans, first before last, without overlap"
            )
        return self

    @model_validator(mode="after")
    def _delimiters_are_unambiguous(self) -> Self:
        for delimiter in self.delimiters:
            if delimiter != delimiter.strip():
                raise ValueError(
                    f"delimiter {delimiter!r} has white space around it; use inside and between for that"
                )
        for one, other in combinations(self.delimiters, 2):
            if _folded(one) in _folded(other) or _folded(other) in _folded(one):
                raise ValueError(f"delimiters {one!r} and {other!r} contain one another; make them differ")
        opener, taken = "", set[str]()
        for name, delimiter in self._pieces:
            opener = delimiter or opener
            if name and opener in taken:
                raise ValueError(
                    f"cannot tell where span {name!r} begins; give it an open, or a close to the span before"
                )
            if name:
                taken.add(opener)
        return self

    @cached_property
    def _grammar(self) -> _Grammar:
        delimiters = [_folded(delimiter) for delimiter in self.delimiters]
        opens, opener = dict[str, str](), ""
        for name, delimiter in self._pieces:
            opener = _folded(delimiter) or opener
            if name:
                opens[opener] = name
        return _Grammar(
            pattern=re.compile("|".join(map(re.escape, delimiters)) or r"(?!)", re.IGNORECASE | re.ASCII),
            order={delimiter: index for index, delimiter in enumerate(delimiters)},
            opens=opens,
            longest=max(map(len, delimiters), default=0),
        )

    def render(self, spans: Mapping[str, str]) -> str:
        """Write the spans as the text of a completion; each text is stripped.

        Raises:
            ValueError: A span is missing, empty or unknown, or its text cannot be told from a delimiter.
        """
        if unknown := [name for name in spans if name not in self.span_names]:
            raise ValueError(
                f"schema {self.name!r} has no span {unknown[0]!r}; it has {', '.join(self.span_names)}"
            )
        texts = {name: spans.get(name, "").strip() for name in self.span_names}
        for name, text in texts.items():
            if not text:
                raise ValueError(
                    f"span {name!r} of schema {self.name!r} is {'empty' if name in spans else 'missing'}"
                )
            if found := self._grammar.pattern.search(text):
                raise ValueError(
                    f"the text of span {name!r} contains the delimiter {found.group()!r}; remove it there"
                )
        rendered = self._layout(texts)
        if {name: span.text for name, span in self.parse(rendered, strict=True).spans.items()} != texts:
            raise ValueError(
                f"schema {self.name!r} cannot read these spans back: a text runs into a delimiter"
            )
        return rendered

    def _layout(self, texts: Mapping[str, str]) -> str:
        blocks: list[str] = []
        for span in self.spans:
            blocks += [wrapper.open for wrapper in self.wrappers if wrapper.first == span.name]
            blocks.append(
                self.inside.join(part for part in (span.open, texts[span.name], span.close) if part)
            )
            blocks += [wrapper.close for wrapper in self.wrappers if wrapper.last == span.name]
        return self.between.join(blocks)

    def parse(self, text: str, *, strict: bool) -> ParsedCompletion:
        """Find the spans in any text, without ever raising, in time linear in its length.

        Both modes find the same spans: delimiters in any case and order, the first of duplicates, and an
        unclosed span up to the next delimiter or the end. They differ in what they call an error. Lenient: a
        span was lost ("missing", "empty"). Strict: the text is not, to the letter, what `render` makes of the
        spans; when only white space or the case of a delimiter differs, that is "text_outside".
        """
        grammar = self._grammar
        matches = list(grammar.pattern.finditer(text))
        delimiters = ["", *(_folded(match.group()) for match in matches)]
        bounds = [0, *(offset for match in matches for offset in match.span()), len(text)]
        closes = {span.name: _folded(span.close) for span in self.spans}
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
            if closes[name] and closes[name] != (delimiters[i + 1] if i + 1 < len(delimiters) else ""):
                kinds.add("unclosed")
        if len(begun) < len(self.spans):
            kinds.add("missing")
        if strict:
            kinds |= self._delimiter_errors(delimiters[1:])
            is_rendered = len(spans) == len(self.spans) and text == self._layout(
                {n: s.text for n, s in spans.items()}
            )
            kinds = set() if is_rendered else kinds or {"text_outside"}
        else:
            kinds &= {"missing", "empty"}
        return ParsedCompletion(spans=spans, errors=tuple(kind for kind in ERROR_KINDS if kind in kinds))

    def _delimiter_errors(self, delimiters: Sequence[str]) -> set[ErrorKind]:
        kinds = set[ErrorKind]()
        first_uses = list(dict.fromkeys(delimiters))
        if len(first_uses) < len(delimiters):
            kinds.add("duplicate")
        if any(self._grammar.order[one] > self._grammar.order[other] for one, other in pairwise(first_uses)):
            kinds.add("order")
        for wrapper in self.wrappers:
            has_open, has_close = _folded(wrapper.open) in first_uses, _folded(wrapper.close) in first_uses
            if not has_open:
                kinds.add("missing")
            elif not has_close:
                kinds.add("unclosed")
        return kinds

    def reasoning(self, parsed: ParsedCompletion) -> str:
        """The texts of all spans but the answer, one a line, in the order in which they were written."""
        written = sorted(parsed.spans.items(), key=lambda item: item[1].start)
        return "\n".join(span.text for name, span in written if name != self.answer)

    def visible(self, parsed: ParsedCompletion) -> str:
        """What a reader may see: the answer and the spans that are not hidden, in the order of the schema."""
        shown = [parsed.text_of(span.name) for span in self.spans if not span.hidden]
        return "\n\n".join(text for text in shown if text)

    def instruction(self, language: Literal["en", "zh"]) -> str:
        """A system prompt that asks for this form, each span described where it goes."""
        if language == "zh":
            ask = "你是一位善于共情的心理咨询师。请阅读求助者的讲述，并按以下格式回复，格式之外不写任何内容："
            texts = {span.name: span.description_zh or span.description or span.name for span in self.spans}
        else:
            ask = (
                "You are an empathetic counsellor. Read what the help-seeker wrote and reply in exactly "
                "this form, with nothing outside it:"
            )
            texts = {span.name: span.description or span.name for span in self.spans}
        return f"{ask}\n\n{self._layout(texts)}"


class StreamingSplitter:
    """Splits a completion into reasoning and answer while it arrives.

    However the text is cut, the answer pieces join to the answer span and the reasoning pieces to
    `schema.reasoning(...)` of the lenient parse. A completion without any delimiter gives nothing.
    """

    def __init__(self, schema: OutputSchema) -> None:
        self._grammar = schema._grammar
        self._answer = schema.answer
        self._held = ""
        self._space = ""
        self._span: str | None = None
        self._begun: set[str] = set()
        self._written: set[str] = set()
        self._enter("")

    def feed(self, delta: str) -> list[tuple[Part, str]]:
        """Take the next piece of text; give back what can no longer turn out to be part of a delimiter."""
        text, start, pieces = self._held + delta, 0, list[tuple[Part, str]]()
        for match in self._grammar.pattern.finditer(text):
            self._write(text[start : match.start()], pieces)
            self._enter(_folded(match.group()))
            start = match.end()
        keep = self._possible_delimiter(text, start)
        self._write(text[start:keep], pieces)
        self._held = text[keep:]
        return pieces

    def close(self) -> list[tuple[Part, str]]:
        """End the text: what was held back is text after all."""
        pieces = list[tuple[Part, str]]()
        self._write(self._held, pieces)
        self._held, self._span = "", None
        return pieces

    def _possible_delimiter(self, text: str, start: int) -> int:
        for keep in range(max(start, len(text) - self._grammar.longest + 1), len(text)):
            tail = _folded(text[keep:])
            if any(delimiter.startswith(tail) for delimiter in self._grammar.order):
                return keep
        return len(text)

    def _enter(self, delimiter: str) -> None:
        name = self._grammar.opens.get(delimiter)
        self._span = None if name in self._begun else name
        self._space = ""
        if name is not None:
            self._begun.add(name)

    def _write(self, text: str, pieces: list[tuple[Part, str]]) -> None:
        body = text.rstrip()
        if self._span is None:
            return
        if not body:
            self._space += text
            return
        part: Part = "answer" if self._span == self._answer else "reasoning"
        if self._span in self._written:
            pieces.append((part, self._space + body))
        else:
            is_later = part == "reasoning" and bool(self._written - {self._answer})
            pieces.append((part, "\n" * is_later + body.lstrip()))
            self._written.add(self._span)
        self._space = text[len(body) :]


def offsets_of_ids(token_ids: Sequence[int], decode: Callable[[list[int]], str]) -> list[tuple[int, int]]:
    """Which characters [start, end) of `decode(token_ids)` each id wrote.

    An id ends where the text decoded so far stops agreeing with the whole text. So an id that only begins a
    character (byte-level BPE splits Chinese ones) advances nothing yet, and shares the offsets of the id that
    completes it. As in incremental detokenization only a window is decoded for each id: the ids that last
    agreed, for context, and those since. An id that wrote nothing gets an empty range.

    Args:
        token_ids: Sampled ids without the end token.
        decode: Ids to text; must keep special tokens and must not clean up spaces.
    """
    ids = list(token_ids)
    whole = decode(ids)
    context, read, settled, context_text = 0, 0, 0, ""
    ends: list[int] = []
    is_waiting: list[bool] = []
    for i in range(len(ids)):
        window = decode(ids[context : i + 1])[len(context_text) :]
        expected = whole[settled : settled + len(window)]
        differing = (k for k, (one, other) in enumerate(zip(window, expected, strict=False)) if one != other)
        agreed = settled + next(differing, len(expected))
        ends.append(max(agreed, ends[-1] if ends else 0))
        is_waiting.append(window != expected)
        if window and window == expected:
            context, read, settled = read, i + 1, agreed
            context_text = decode(ids[context:read])
    if ends:
        ends[-1] = len(whole)
    offsets = list(zip([0, *ends], ends, strict=False))
    for i in reversed(range(len(offsets) - 1)):
        if is_waiting[i] and offsets[i][0] == offsets[i][1]:
            offsets[i] = offsets[i + 1]
    return offsets


def span_token_masks(
    spans: Mapping[str, Span], token_offsets: Sequence[tuple[int, int]]
) -> dict[str, list[bool]]:
    """Say for each span which tokens wrote its text.

    Args:
        spans: Spans of the completion's text, as parsed.
        token_offsets: [tokens] characters [start, end) that each token wrote, starts not decreasing.

    Returns:
        Per span [tokens] bool: the token overlaps the text of the span. A token is in one span at most, the
        first that it overlaps; a token that wrote nothing is in none.
    """
    written = sorted(spans.items(), key=lambda item: item[1].start)
    masks = {name: [False] * len(token_offsets) for name in spans}
    span_ends = [span.end for _, span in written]
    for i, (start, end) in enumerate(token_offsets):
        # Spans are disjoint: the first that ends after the token's start is the first that it can overlap.
        nearest = bisect_left(span_ends, start + 1)
        if start < end and nearest < len(written) and written[nearest][1].start < end:
            masks[written[nearest][0]][i] = True
    return masks


def named_schema(name: str) -> OutputSchema:
    """The shipped schema of that name.

    Raises:
        ValueError: There is none; the text lists them.
    """
    if name not in NAMED_SCHEMAS:
        nearest = difflib.get_close_matches(name, NAMED_SCHEMAS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"unknown schema {name!r}, known: {', '.join(NAMED_SCHEMAS)}{hint}")
    return NAMED_SCHEMAS[name]


def _folded(text: str) -> str:
    """ASCII letters in lower case: never changes the length, and agrees with `re.IGNORECASE | re.ASCII`."""
    return text.translate(_ASCII_LOWER)


def _stripped(text: str, start: int, end: int) -> Span:
    inner = text[start:end]
    body = inner.strip()
    start += len(inner) - len(inner.lstrip())
    return Span(body, start, start + len(body))


def _tag(name: str, en: str, zh: str) -> SpanConfig:
    return SpanConfig(
        name=name,
        open=f"<{name}>",
        close=f"</{name}>",
        hidden=name != "answer",
        description=en,
        description_zh=zh,
    )


def _token(name: str, en: str, zh: str) -> SpanConfig:
    tag = _tag(name, en, zh)
    update = {"open": f"<|{name}_begin|>", "close": f"<|{name}_end|>", "hidden": name != "response"}
    return tag.model_copy(update=update)


_REPLY = ("the answer to the help-seeker", "给求助者的回答")

CHAIN_OF_EMPATHY = OutputSchema(
    name="chain_of_empathy",
    spans=(
        _tag("L1", "emotions and context: what they feel, in which situation", "情绪与情境：感受及其处境"),
        _tag("L2", "causes and beliefs: why they feel so, what they believe", "原因与信念：感受的来由与想法"),
        _tag(
            "L3", "intent: do they seek validation, understanding or advice", "意图分析：寻求认可、理解或建议"
        ),
        _tag("L4", "strategy: how the answer should respond", "回应策略：如何据此回应"),
        _tag("answer", *_REPLY),
    ),
    wrappers=(WrapperConfig(open="<empathy_think>", close="</empathy_think>", first="L1", last="L4"),),
    between="",
)
"""Chain-of-Empathy of Empathy-R1 (arXiv:2509.14851). No white space between spans: what follows a closing tag is then
certain, which small models learn soonest."""

KARDIA = OutputSchema(
    name="kardia",
    spans=(
        _token("understanding", "what happened to the help-seeker", "求助者的处境"),
        _token("reasoning", "why they feel so, and what would help", "感受的来由与有益的回应"),
        _token("emotion", "one word for their emotion", "一个情绪词"),
        _token("response", *_REPLY),
    ),
    answer="response",
)
"""Four spans in special tokens, as in Kardia-R1 (arXiv:2512.01282)."""

THINK_ANSWER = OutputSchema(
    name="think_answer",
    spans=(_tag("think", "your reasoning about the help-seeker", "对求助者的思考"), _tag("answer", *_REPLY)),
    inside="\n",
)
"""Free reasoning, then the answer."""

PLAIN = OutputSchema(
    name="plain",
    spans=(SpanConfig(name="answer", description=_REPLY[0], description_zh=_REPLY[1]),),
)
"""The answer alone, without delimiters: the ablation of the reasoning."""

NAMED_SCHEMAS: Mapping[str, OutputSchema] = {
    schema.name: schema for schema in (CHAIN_OF_EMPATHY, KARDIA, THINK_ANSWER, PLAIN)
}

"""The declaration of an output schema: its spans and delimiters, what it refuses, and how it writes and reads."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import combinations
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rl_empathy.schema.content import content_errors
from rl_empathy.schema.reading import (
    ERROR_KINDS,
    Grammar,
    ParsedCompletion,
    delimiter_errors,
    folded,
    read_spans,
)

Name = Annotated[str, Field(pattern=r"^[\w\-]+$")]
Letters = Annotated[int, Field(ge=1)]


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
    """Keep the span from the reader when serving, unless serve.show_reasoning is true."""
    min_letters: Letters | None = None
    """Fewest letters of the span; the schema's min_letters when left out."""
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


class OutputSchema(_Declaration):
    r"""Named spans in order, with their delimiters; strict parsing accepts exactly what `render` writes.

    The name of a shipped schema without spans takes the spans and all other settings from it.

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
    min_letters: Letters = 3
    """Fewest letters or digits of a span, of any script; a Chinese character counts as three."""
    forbidden: tuple[Annotated[str, Field(min_length=2)], ...] = ()
    """Delimiters that no span may contain, beside those of the shipped schemas and of the usual chat templates; a run
    adds those of its model's own chat template."""

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

    @model_validator(mode="before")
    @classmethod
    def _filled_from_the_shipped_one(cls, declared: Any) -> Any:
        """`{name: chain_of_empathy, min_letters: 40}` is the shipped schema of that name with another minimum."""
        if isinstance(declared, dict) and "spans" not in declared:
            from rl_empathy.schema.shipped import NAMED_SCHEMAS

            if shipped := NAMED_SCHEMAS.get(declared.get("name", "")):
                return shipped.model_dump() | declared
        return declared

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
            if folded(one) in folded(other) or folded(other) in folded(one):
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
    def grammar(self) -> Grammar:
        """What is needed to find the spans in a text."""
        delimiters = [folded(delimiter) for delimiter in self.delimiters]
        opens, opener = dict[str, str](), ""
        for name, delimiter in self._pieces:
            opener = folded(delimiter) or opener
            if name:
                opens[opener] = name
        return Grammar(
            pattern=re.compile("|".join(map(re.escape, delimiters)) or r"(?!)", re.IGNORECASE | re.ASCII),
            order={delimiter: index for index, delimiter in enumerate(delimiters)},
            opens=opens,
            closes={span.name: folded(span.close) for span in self.spans},
            wrappers=[(folded(wrapper.open), folded(wrapper.close)) for wrapper in self.wrappers],
            longest=max(map(len, delimiters), default=0),
        )

    def render(self, spans: Mapping[str, str], *, partial: bool = False) -> str:
        """Write the spans as the text of a completion; each text is stripped.

        Args:
            spans: A text for every span.
            partial: Spans but the answer may be missing; what is written then has no valid form, since spans lack.

        Raises:
            ValueError: A span is missing, empty or unknown, or its text cannot be told from a delimiter.
        """
        if unknown := [name for name in spans if name not in self.span_names]:
            raise ValueError(
                f"schema {self.name!r} has no span {unknown[0]!r}; it has {', '.join(self.span_names)}"
            )
        wanted = [name for name in self.span_names if name in spans or name == self.answer or not partial]
        texts = {name: spans.get(name, "").strip() for name in wanted}
        for name, text in texts.items():
            if not text:
                raise ValueError(
                    f"span {name!r} of schema {self.name!r} is {'empty' if name in spans else 'missing'}"
                )
            if found := self.grammar.pattern.search(text):
                raise ValueError(
                    f"the text of span {name!r} contains the delimiter {found.group()!r}; remove it there"
                )
        for problem in self._content_errors(texts).values():
            raise ValueError(f"schema {self.name!r}: {problem}")
        rendered = self._layout(texts)
        if len(texts) < len(self.spans):
            return rendered  # what begins where a span that lacks would end cannot be read back
        if {name: span.text for name, span in self.parse(rendered, strict=True).spans.items()} != texts:
            raise ValueError(
                f"schema {self.name!r} cannot read these spans back: a text runs into a delimiter"
            )
        return rendered

    def _layout(self, texts: Mapping[str, str]) -> str:
        """The spans that there are, in their order, a wrapper around those of its spans."""
        there = [span for span in self.spans if span.name in texts]
        blocks: list[str] = []
        for span in there:
            wrapped = [(wrapper, self._within(wrapper, there)) for wrapper in self.wrappers]
            blocks += [wrapper.open for wrapper, names in wrapped if names[:1] == [span.name]]
            blocks.append(
                self.inside.join(part for part in (span.open, texts[span.name], span.close) if part)
            )
            blocks += [wrapper.close for wrapper, names in wrapped if names[-1:] == [span.name]]
        return self.between.join(blocks)

    def _within(self, wrapper: WrapperConfig, there: Sequence[SpanConfig]) -> list[str]:
        """Names of those spans that stand in a wrapper."""
        names = self.span_names
        inside = names[names.index(wrapper.first) : names.index(wrapper.last) + 1]
        return [span.name for span in there if span.name in inside]

    def parse(self, text: str, *, strict: bool) -> ParsedCompletion:
        """Find the spans in any text, without ever raising, in time linear in its length.

        Both modes find the same spans: delimiters in any case and order, the first of duplicates, and an
        unclosed span up to the next delimiter or the end. They differ in what they call an error. Lenient: a
        span was lost ("missing", "empty"). Strict: the text is not, to the letter, what `render` makes of the
        spans; when only white space or the case of a delimiter differs, that is "text_outside". What a span holds
        is looked at in strict mode, too: see `content`.
        """
        spans, delimiters, kinds = read_spans(text, self.grammar)
        if strict:
            kinds |= delimiter_errors(delimiters, self.grammar)
            texts = {name: span.text for name, span in spans.items()}
            is_laid_out = len(spans) == len(self.spans) and text == self._layout(texts)
            kinds = set() if is_laid_out else kinds or {"text_outside"}
            kinds |= self._content_errors(texts).keys()
        else:
            kinds &= {"missing", "empty"}
        return ParsedCompletion(spans=spans, errors=tuple(kind for kind in ERROR_KINDS if kind in kinds))

    def _content_errors(self, texts: Mapping[str, str]) -> dict[Any, str]:
        fewest = {span.name: span.min_letters or self.min_letters for span in self.spans}
        own = (delimiter for delimiter in self.delimiters if len(delimiter) > 1)
        return content_errors(texts, fewest, (*self.forbidden, *own))

    def reasoning(self, parsed: ParsedCompletion, *, with_hidden: bool = True) -> str:
        """The texts of the spans but the answer, one a line, in the order in which they were written.

        Args:
            parsed: A completion that was read.
            with_hidden: Give the hidden spans, too.
        """
        names = self.reasoning_names(with_hidden=with_hidden)
        written = sorted(parsed.spans.items(), key=lambda item: item[1].start)
        return "\n".join(span.text for name, span in written if name in names)

    def reasoning_names(self, *, with_hidden: bool) -> tuple[str, ...]:
        """The spans but the answer, with or without those that are hidden from the reader."""
        return tuple(s.name for s in self.spans if s.name != self.answer and (with_hidden or not s.hidden))

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

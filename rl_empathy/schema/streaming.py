"""Reasoning and answer told apart while a completion arrives."""

from typing import Literal

from rl_empathy.schema.declaration import OutputSchema
from rl_empathy.schema.reading import folded

Part = Literal["reasoning", "answer"]


class StreamingSplitter:
    """Splits a completion into reasoning and answer while it arrives.

    However the text is cut, the answer pieces join to the answer span and the reasoning pieces to
    `schema.reasoning(...)` of the lenient parse. A completion without any delimiter gives nothing.
    """

    def __init__(self, schema: OutputSchema, *, with_hidden: bool = True) -> None:
        """Begin a completion.

        Args:
            schema: Names the spans.
            with_hidden: Give the text of hidden spans, too.
        """
        self._grammar = schema.grammar
        self._answer = schema.answer
        self._wanted = {schema.answer, *schema.reasoning_names(with_hidden=with_hidden)}
        self._held = ""
        self._space = ""
        self._span: str | None = None
        self._begun: set[str] = set()
        self._written: set[str] = set()
        self._enter("")

    @property
    def is_in_answer(self) -> bool:
        """Whether the next text belongs to the answer, as far as the text so far says."""
        return self._span == self._answer

    def feed(self, delta: str) -> list[tuple[Part, str]]:
        """Take the next piece of text; give back what can no longer turn out to be part of a delimiter."""
        text, start, pieces = self._held + delta, 0, list[tuple[Part, str]]()
        for match in self._grammar.pattern.finditer(text):
            self._write(text[start : match.start()], pieces)
            self._enter(folded(match.group()))
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
            tail = folded(text[keep:])
            if any(delimiter.startswith(tail) for delimiter in self._grammar.order):
                return keep
        return len(text)

    def _enter(self, delimiter: str) -> None:
        name = self._grammar.opens.get(delimiter)
        self._span = name if name in self._wanted - self._begun else None
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

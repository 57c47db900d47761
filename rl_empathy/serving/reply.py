"""The model's raw text as it arrives, turned into what the client sees."""

from dataclasses import dataclass
from typing import Any

from rl_empathy.schema import OutputSchema, StreamingSplitter


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What the model server sends: some text, or the end with finish reason and usage, or a refusal."""

    text: str = ""
    finish_reason: str = ""
    usage: dict[str, int] | None = None
    error: str = ""


class Reply:
    """One reply under way.

    The answer goes to `content`; the reasoning to `reasoning`, its hidden spans only where they are shown. A completion
    without any delimiter is not in the form the model was trained for: its whole text becomes the content at the end,
    and the metadata says so. A completion that has delimiters and no answer gives an empty content: its reasoning is
    not passed off as one.
    """

    def __init__(self, schema: OutputSchema, *, show_reasoning: bool, notice: str) -> None:
        self._schema = schema
        self._splitter = StreamingSplitter(schema, with_hidden=show_reasoning)
        self._has_reasoning = bool(schema.reasoning_names(with_hidden=show_reasoning)) or show_reasoning
        self._notice = notice
        self._text = ""
        self._sent = dict[str, str]()
        self._falls_back = False
        self._finish_reason = ""
        self._usage: dict[str, int] | None = None

    def feed(self, piece: Piece) -> list[dict[str, str]]:
        """Take what arrived; give back the deltas to send."""
        self._text += piece.text
        self._finish_reason = piece.finish_reason or self._finish_reason
        self._usage = piece.usage or self._usage
        return self._deltas(self._splitter.feed(piece.text))

    def close(self) -> list[dict[str, str]]:
        """End the text; give back the last deltas."""
        deltas = self._deltas(self._splitter.close())
        folded = self._text.lower()
        has_form = any(delimiter.lower() in folded for delimiter in self._schema.delimiters)
        if self._schema.delimiters and not has_form and self._text.strip():
            self._falls_back = True
            deltas += self._deltas([("answer", self._text.strip())])
        return deltas

    @property
    def finish_reason(self) -> str:
        return "length" if self._finish_reason == "length" else "stop"

    @property
    def message(self) -> dict[str, Any]:
        reasoning = {"reasoning": self._sent.get("reasoning", "")} if self._has_reasoning else {}
        return {"role": "assistant", "content": self._sent.get("content", ""), **reasoning}

    @property
    def end(self) -> dict[str, Any]:
        """Usage and metadata of the finished reply."""
        valid = self.finish_reason == "stop" and self._schema.parse(self._text, strict=True).valid
        metadata: dict[str, Any] = {"notice": self._notice, "schema_valid": valid}
        if self._falls_back:
            metadata["fallback"] = (
                "no delimiter of the schema was written: the content is the whole completion"
            )
        return {"usage": self._usage, "metadata": metadata}

    def _deltas(self, pieces: list[tuple[Any, str]]) -> list[dict[str, str]]:
        deltas = []
        for part, text in pieces:
            key = "content" if part == "answer" else "reasoning"
            deltas.append({key: text})
            self._sent[key] = self._sent.get(key, "") + text
        return deltas

"""The model's raw text as it arrives, turned into what the client sees."""

from dataclasses import dataclass
from typing import Any

from rl_empathy.schema import OutputSchema, StreamingSplitter, is_seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What the model server sends: the text of some tokens, or the end with its finish reason, or a refusal."""

    text: str = ""
    tokens: int = 0
    """Tokens that the text stands for; more than one only where they cannot be told apart."""
    prompt_tokens: int = 0
    finish_reason: str = ""
    error: str = ""


def usage_of(prompt_tokens: int, completion_tokens: int, other_tokens: int) -> dict[str, Any]:
    """Tokens in OpenAI's shape.

    Args:
        prompt_tokens: Read.
        completion_tokens: Written.
        other_tokens: Other tokens of these, those that are not the answer's.
    """
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens_details": {"reasoning_tokens": other_tokens},
    }


class Reply:
    """One reply under way.

    The answer goes to `content`; the reasoning to `reasoning`, its hidden spans only where they are shown. A completion
    without any delimiter is not in the form the model was trained for: its whole text becomes the content at the end,
    and the metadata says so. A completion that has delimiters and no answer gives no content: its reasoning is not
    passed off as one.
    """

    def __init__(
        self,
        schema: OutputSchema,
        *,
        show_reasoning: bool,
        notice: str,
        max_answer_tokens: int,
        max_other_tokens: int,
    ) -> None:
        """
        Args:
            schema: The form of the completion.
            show_reasoning: Send the hidden spans, too.
            notice: Goes into the metadata.
            max_answer_tokens: Where the answer is cut.
            max_other_tokens: Reasoning and delimiters: a completion that needs more ends without an answer.
        """
        self._schema = schema
        self._show_reasoning = show_reasoning
        self._has_reasoning = bool(schema.reasoning_names(with_hidden=show_reasoning)) or show_reasoning
        self._notice = notice
        self._max_answer_tokens = max_answer_tokens
        self._max_other_tokens = max_other_tokens
        self._prompt_tokens = self._tokens = self._attempts = 0
        self.begin()

    def begin(self) -> None:
        """Start an attempt: what an earlier one wrote is forgotten, what it cost is not."""
        self._attempts += 1
        self._splitter = StreamingSplitter(self._schema, with_hidden=self._show_reasoning)
        self._text = self._start = ""
        self._attempt_tokens = self._answer_tokens = self._held_tokens = 0
        self._sent = dict[str, str]()
        self._falls_back = self._is_cut = False
        self._finish_reason = ""

    def feed(self, piece: Piece) -> list[dict[str, str]]:
        """Take what arrived; give back the deltas to send."""
        self._prompt_tokens = piece.prompt_tokens or self._prompt_tokens
        self._finish_reason = piece.finish_reason or self._finish_reason
        self._tokens += piece.tokens
        self._attempt_tokens += piece.tokens
        if self._attempt_tokens <= self._max_answer_tokens:
            self._start += piece.text
        was_in_answer = self._splitter.is_in_answer
        pieces = self._splitter.feed(piece.text)
        # Space before the answer, or half of a character.
        unseen = not self._answer_tokens and not piece.text.strip()
        self._held_tokens = (0 if unseen else piece.tokens) + (self._held_tokens if was_in_answer else 0)
        if any(part == "answer" for part, _ in pieces):
            if self._answer_tokens + self._held_tokens > self._max_answer_tokens:
                self._is_cut = True
                return self._deltas([(part, text) for part, text in pieces if part != "answer"])
            self._answer_tokens += self._held_tokens
            self._held_tokens = 0
        elif not was_in_answer:
            self._held_tokens = 0
        self._text += piece.text
        return self._deltas(pieces)

    @property
    def is_over(self) -> bool:
        """Whether a limit is reached, so that further pieces are not wanted."""
        others = self._attempt_tokens - self._answer_tokens - self._held_tokens
        return self._is_cut or (others > self._max_other_tokens and not self._answer_tokens)

    def close(self) -> list[dict[str, str]]:
        """End the text; give back the last deltas."""
        deltas = []
        if not self._is_cut and self._answer_tokens + self._held_tokens <= self._max_answer_tokens:
            deltas = self._deltas(self._splitter.close())
        folded = self._text.lower()
        has_form = any(delimiter.lower() in folded for delimiter in self._schema.delimiters)
        if self._schema.delimiters and not has_form and self._start.strip():
            self._falls_back = True
            self._is_cut = self._attempt_tokens > self._max_answer_tokens
            self._answer_tokens = min(self._attempt_tokens, self._max_answer_tokens)
            deltas += self._deltas([("answer", self._start.strip())])
        return deltas

    @property
    def has_answer(self) -> bool:
        """Whether there is a character in it that a reader sees."""
        return is_seen(self._sent.get("content", ""))

    @property
    def finish_reason(self) -> str:
        return "length" if self._finish_reason == "length" or self.is_over else "stop"

    @property
    def message(self) -> dict[str, Any]:
        reasoning = {"reasoning": self._sent.get("reasoning", "")} if self._has_reasoning else {}
        return {"role": "assistant", "content": self._sent.get("content", ""), **reasoning}

    @property
    def end(self) -> dict[str, Any]:
        """Usage and metadata of the finished reply; the usage counts every attempt."""
        valid = self.finish_reason == "stop" and self._schema.parse(self._text, strict=True).valid
        metadata: dict[str, Any] = {"notice": self._notice, "schema_valid": valid}
        if self._falls_back:
            metadata["fallback"] = (
                "no delimiter of the schema was written: the content is the whole completion"
            )
        if self._attempts > 1:
            metadata["attempts"] = self._attempts
        usage = usage_of(self._prompt_tokens, self._tokens, self._tokens - self._answer_tokens)
        return {"usage": usage, "metadata": metadata}

    def _deltas(self, pieces: list[tuple[Any, str]]) -> list[dict[str, str]]:
        deltas = []
        for part, text in pieces:
            key = "content" if part == "answer" else "reasoning"
            deltas.append({key: text})
            self._sent[key] = self._sent.get(key, "") + text
        return deltas

"""What a reward term is given of a group, and nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rl_empathy.schema import OutputSchema, ParsedCompletion
from rl_empathy.types import Completion, FinishReason, Occurrence, RolloutGroup, Row

Sees = Literal["answer", "all"] | tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionView:
    """One completion, as far as the term may see it.

    Example, of a term that sees the answer:
        spans         = {"answer": "That sounds exhausting."}      a span that it lacks is not there
        text          = "That sounds exhausting."                  the spans, a blank line between two
        errors        = ("unclosed",)                              what is wrong with its form, read strictly
        finish_reason = "length"                                   cut; "stop": it came to its end
        tokens        = 288                                        of the whole completion
    """

    spans: Mapping[str, str]
    text: str
    errors: Sequence[str]
    finish_reason: FinishReason
    tokens: int

    @property
    def keeps_form(self) -> bool:
        """It is exactly what the schema renders, and came to its end."""
        return not self.errors and self.finish_reason == "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    """The completions of one prompt, all of them: a term may look at the siblings.

    `row` is the prompt's row of the data: messages, references, trace and metadata; `row.post` is its last message.
    """

    row: Row
    occurrence: Occurrence
    """Which use of the prompt: epoch, and place in its order."""
    completions: tuple[CompletionView, ...]
    answer: str
    """Name of the span that the reader gets."""

    @property
    def answers(self) -> list[str]:
        """The answer of each completion, "" where it has none, or where the term does not see it."""
        return [completion.spans.get(self.answer, "") for completion in self.completions]

    @property
    def texts(self) -> list[str]:
        return [completion.text for completion in self.completions]


def view_of(
    group: RolloutGroup, parsed: Sequence[ParsedCompletion], schema: OutputSchema, sees: Sees
) -> GroupView:
    """Leave out what a term may not see.

    Args:
        group: Prompt and completions.
        parsed: The completions read strictly, in their order.
        schema: Says which span is the answer.
        sees: What the term may see.
    """
    names = {"answer": (schema.answer,), "all": schema.span_names}.get(sees, sees)  # type: ignore[arg-type]
    return GroupView(
        row=group.prompt.row,
        occurrence=group.prompt.occurrence,
        completions=tuple(
            _completion(completion, p, names, whole=sees == "all")
            for completion, p in zip(group.completions, parsed, strict=True)
        ),
        answer=schema.answer,
    )


def _completion(
    completion: Completion, parsed: ParsedCompletion, names: Sequence[str], *, whole: bool
) -> CompletionView:
    spans = {name: text for name in names if (text := parsed.text_of(name))}
    return CompletionView(
        spans=spans,
        text=completion.text if whole else "\n\n".join(spans.values()),
        errors=parsed.errors,
        finish_reason=completion.finish_reason,
        tokens=len(completion.token_ids),
    )

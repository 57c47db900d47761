"""How well the answer fits the question, under the embedding reward model."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from rl_empathy.schema import OutputSchema, ParsedCompletion
from rl_empathy.types import RolloutGroup

Mode = Literal["raw", "gated", "binary"]
Scores = Callable[[str, Sequence[str]], list[float]]
"""(question, answers) -> score of each answer, see `engines.embedding`."""


class AnswerReward:
    """Score s of an answer for its question, cut at 0, as it is or against a threshold τ.

        raw     s                       gated   s if s ≥ τ else 0                         binary   1 if s ≥ τ else 0

    r_answer of Empathy-R1 (arXiv:2509.14851, sec. 3.3.2): "cosine threshold"; the paper's form is most likely binary.
    The paper's s is a cosine; ours pays nothing for what is copied from the question.
    Sees the answer's span only, so reasoning cannot buy reward. A completion without an answer gets the worst score of
    the term: 0, or 1 where the weight is negative. So no answer never beats a bad one. Scores below 0 count as 0: they
    differ by noise, and a worst score of -1 would let one missing answer set the spread of its whole group.
    """

    def __init__(
        self,
        scores: Scores,
        schema: OutputSchema,
        *,
        mode: Mode,
        threshold: float,
        weight: float = 1.0,
    ) -> None:
        self._scores = scores
        self._answer = schema.answer
        self._mode = mode
        self._threshold = threshold
        self._missing = 0.0 if weight >= 0 else 1.0

    def __call__(
        self, group: RolloutGroup, parsed: Sequence[ParsedCompletion], **_: Any
    ) -> list[float | None]:
        """Score the answers; identical signature to every reward function."""
        answers = [p.text_of(self._answer) for p in parsed]
        present = [answer for answer in answers if answer]
        scores = iter(self._scores(group.prompt.row.post, present) if present else [])
        return [self._reward(next(scores)) if answer else self._missing for answer in answers]

    def _reward(self, score: float) -> float:
        passed = score >= self._threshold
        if self._mode == "binary":
            return float(passed)
        return max(0.0, score) if passed or self._mode == "raw" else 0.0

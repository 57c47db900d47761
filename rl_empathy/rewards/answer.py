"""How well the answer fits the question, under the embedding reward model."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from rl_empathy.schema import OutputSchema, ParsedCompletion
from rl_empathy.types import RolloutGroup

Mode = Literal["raw", "gated", "binary"]
Scores = Callable[[str, Sequence[str]], list[float]]
"""(question, answers) -> score of each answer, see `engines.embedding`."""


class AnswerReward:
    """Score s of an answer for its question, as it is or against a threshold τ.

        raw     s                       gated   s if s ≥ τ else 0                         binary   1 if s ≥ τ else 0

    r_answer of Empathy-R1 (arXiv:2509.14851, sec. 3.3.2): "cosine threshold"; the paper's form is most likely binary.
    The paper's s is a cosine; ours pays nothing for what is copied from the question.
    Sees the answer's span only, so reasoning cannot buy reward. A completion without an answer gets the worst score of
    the term's range: the lowest, or the highest where the weight is negative. So no answer never beats a bad one.
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
        lowest, highest = score_range(mode, threshold)
        self._missing = lowest if weight >= 0 else highest

    def __call__(
        self, group: RolloutGroup, parsed: Sequence[ParsedCompletion], **_: Any
    ) -> list[float | None]:
        """Score the answers; identical signature to every reward function."""
        answers = [p.text_of(self._answer) for p in parsed]
        present = [answer for answer in answers if answer]
        scores = iter(self._scores(group.prompt.row.post, present) if present else [])
        return [self._reward(next(scores)) if answer else self._missing for answer in answers]

    def _reward(self, score: float) -> float:
        if self._mode == "raw":
            return score
        passed = score >= self._threshold
        return float(passed) if self._mode == "binary" else score * passed


def score_range(mode: Mode, threshold: float) -> tuple[float, float]:
    """The lowest and the highest score of a mode; a threshold below 0 lets negative scores through the gate."""
    lowest = {"raw": -1.0, "gated": max(-1.0, min(0.0, threshold)), "binary": 0.0}[mode]
    return lowest, 1.0

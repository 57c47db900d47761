"""How near the answer is to the question, under the embedding reward model."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from rl_empathy.schema import OutputSchema, ParsedCompletion
from rl_empathy.types import RolloutGroup

Mode = Literal["raw", "gated", "binary"]
Similarity = Callable[[str, Sequence[str]], list[float]]
"""(question, answers) -> cosine of each answer with the question."""


class AnswerReward:
    """Cosine of question and answer, as it is or against a threshold τ.

        raw     cos                     gated   cos if cos ≥ τ else 0                     binary   1 if cos ≥ τ else 0

    r_answer of Empathy-R1 (arXiv:2509.14851, sec. 3.3.2): "cosine threshold"; the paper's form is most likely binary.
    Sees the answer's span only, so reasoning cannot buy reward; a completion without an answer gets 0.
    """

    def __init__(self, similarity: Similarity, schema: OutputSchema, *, mode: Mode, threshold: float) -> None:
        self._similarity = similarity
        self._answer = schema.answer
        self._mode = mode
        self._threshold = threshold

    def __call__(
        self, group: RolloutGroup, parsed: Sequence[ParsedCompletion], **_: Any
    ) -> list[float | None]:
        """Score the answers; identical signature to every reward function."""
        answers = [p.text_of(self._answer) for p in parsed]
        present = [answer for answer in answers if answer]
        cosines = iter(self._similarity(group.prompt.row.post, present) if present else [])
        return [self._reward(next(cosines)) if answer else 0.0 for answer in answers]

    def _reward(self, cosine: float) -> float:
        if self._mode == "raw":
            return cosine
        passed = cosine >= self._threshold
        return float(passed) if self._mode == "binary" else cosine * passed

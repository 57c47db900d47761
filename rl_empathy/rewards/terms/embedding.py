"""How well the answer fits the post, under the embedding reward model."""

from rl_empathy.config.sections.rewards import EmbeddingTerm
from rl_empathy.rewards.parts import OwnThread, Parts
from rl_empathy.rewards.view import GroupView


class Embedding:
    """Score s of an answer for its post, cut at 0, as it is or against a threshold τ.

        raw     s                       gated   s if s ≥ τ else 0                         binary   1 if s ≥ τ else 0

    r_answer of Empathy-R1 (arXiv:2509.14851, sec. 3.3.2): "cosine threshold"; the paper's form is most likely binary.
    The paper's s is a cosine; ours pays nothing for what is copied from the post.
    A completion without a text that the term may see gets its worst score: 0, or 1 where the weight is negative. So no
    answer never beats a bad one. Scores below 0 count as 0: they differ by noise, and a worst score of -1 would let one
    missing answer set the spread of its whole group.
    """

    blocks = True

    def __init__(self, config: EmbeddingTerm, parts: Parts) -> None:
        self._model = parts.reward_models[config.reward_model]
        self._mode = config.mode
        self._threshold = self._model.threshold if config.threshold is None else config.threshold
        self._missing = config.worst
        self._thread = OwnThread()

    async def score(self, view: GroupView) -> list[float | None]:
        return await self._thread.run(self._scores, view)

    def _scores(self, view: GroupView) -> list[float | None]:
        present = [text for text in view.texts if text]
        scores = iter(self._model.scores(view.row.post, present) if present else [])
        return [self._reward(next(scores)) if text else self._missing for text in view.texts]

    def _reward(self, score: float) -> float:
        passed = score >= self._threshold
        if self._mode == "binary":
            return float(passed)
        return max(0.0, score) if passed or self._mode == "raw" else 0.0

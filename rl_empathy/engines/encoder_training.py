"""Trains a sentence encoder on triplets, over several ranks, each of which encodes a share of them. Knows no Ray.

    every rank    questions and answers of its triplets ──encoder──> vectors, with a gradient
    all ranks     the vectors of all triplets ──> the whole loss, on each rank with the gradient of its own vectors

So the negatives within the batch are those of the whole batch, however many ranks share it.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from rl_empathy.algorithms.copying import without_copied_runs
from rl_empathy.algorithms.losses import infonce_loss, triplet_loss
from rl_empathy.config.sections import RewardModelingConfig
from rl_empathy.engines.embedding import SentenceEncoder, as_pair_sides
from rl_empathy.engines.ranks import from_every_rank
from rl_empathy.engines.sharded_training import ShardedTraining, UpdateReport
from rl_empathy.engines.shards import ZeroStage
from rl_empathy.engines.trainable import WholeModel

BETAS = (0.9, 0.999)
IDLE = "."
"""What a rank without a triplet encodes, and forgets: ZeRO waits for every rank."""


class TripletLike(Protocol):
    """A question, a right and a wrong answer; `data.triplets.Triplet` is one, which engines do not import."""

    @property
    def question(self) -> str: ...
    @property
    def positive(self) -> str: ...
    @property
    def negative(self) -> str: ...
    @property
    def kind(self) -> str: ...
    def is_right(self, answer: str) -> bool: ...


class EncoderTraining(ShardedTraining):
    """An encoder with its optimizer; one rank of those that hold it."""

    def __init__(
        self, encoder: SentenceEncoder, config: RewardModelingConfig, *, zero_stage: ZeroStage = 0
    ) -> None:
        """Give the encoder to DeepSpeed. The ranks have met before (`ranks.meet`); who has not is the only one.

        Args:
            encoder: Trained in place.
            config: Section reward_modeling.
            zero_stage: What the ranks shard: 0 nothing; 2 moments and gradients; 3 weights too.
        """
        super().__init__(
            encoder,
            WholeModel(encoder.encoder),
            config.optimizer,
            num_steps=config.num_steps,
            zero_stage=zero_stage,
            betas=BETAS,
        )
        self._config = config
        self.encoder: SentenceEncoder = self._engine.module

    def update(self, triplets: Sequence[TripletLike]) -> UpdateReport:
        """Make one optimizer step on triplets, the same on every rank.

        Returns:
            What happened, the same on every rank. A loss or gradient that is not finite leaves the weights alone.
        """
        loss = self._loss(triplets)  # the whole one, on each rank with the gradient of its own vectors
        self._backward(loss)
        return self._step(loss.item() / self.ranks)  # the ranks' losses are summed

    def _zero_gradients(self) -> None:
        self._backward(0.0 * self._encoded([IDLE]).sum())

    def _loss(self, triplets: Sequence[TripletLike]) -> Tensor:
        """[] loss of all triplets, the same on every rank, with the gradient of this rank's share of the texts.

        Questions and answers are encoded apart, since their lengths differ and padding costs time.
        """
        questions = [t.question for t in triplets]
        answers = [t.positive for t in triplets] + [t.negative for t in triplets]
        unlike = [without_copied_runs(a, q) for a, q in zip(answers, 2 * questions, strict=True)]
        num = len(triplets)
        texts = as_pair_sides(questions, unlike)
        asked, right, wrong = texts[:num], texts[num : 2 * num], texts[2 * num :]
        share = slice(num * self.rank // self.ranks, num * (self.rank + 1) // self.ranks)
        anchors = self._of_all(self._encoded(asked[share]))
        both = self._encoded(right[share] + wrong[share])
        positives, negatives = (self._of_all(side) for side in both.chunk(2))
        if self._config.loss == "triplet":
            return triplet_loss(anchors, positives, negatives, margin=self._config.margin)
        is_own = torch.tensor([[t.is_right(a) for a in answers] for t in triplets], device=anchors.device)
        return infonce_loss(anchors, positives, negatives, is_own, temperature=self._config.temperature)

    def _encoded(self, texts: Sequence[str]) -> Tensor:
        """[texts, width] unit vectors, with a gradient."""
        vectors: Tensor = self._engine(texts or [IDLE], max_tokens=self._config.max_tokens)
        return vectors[: len(texts)]

    def _of_all(self, vectors: Tensor) -> Tensor:
        """[all, width] vectors of all ranks, in order, with a gradient for those of this rank."""
        if self.ranks == 1:
            return vectors
        parts = from_every_rank(vectors.detach().cpu())
        parts[self.rank] = vectors
        return torch.cat([part.to(vectors.device) for part in parts])

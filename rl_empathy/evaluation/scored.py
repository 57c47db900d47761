"""A completion of an evaluation, with what the scorers said of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from rl_empathy.types import FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredCompletion:
    """What one model wrote for one held-out prompt, and what the scorers said of it.

    Example with the terms of Empathy-R1:
        rewards = {"format": 1.0, "answer": 0.71},  reward = 1.71 (their weighted sum)
    """

    prompt_id: str
    """Id of the row."""
    text: str
    """Special tokens kept, without the end token."""
    finish_reason: FinishReason
    tokens: int
    """Length, tokens."""
    rewards: Mapping[str, float | None] = field(default_factory=dict)
    """Reward terms before weights; None where a term failed, which is left out of the means."""
    reward: float | None = None
    """Weighted sum of the terms; None when one failed, or when nothing scored it."""
    similarity_to_post: float | None = None
    """Cosine of the answer with the post, by evaluate.similarity_encoder; a copy has 1. None: not measured."""

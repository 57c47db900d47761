"""Where to cut a score so that it says yes or no."""

from typing import NamedTuple

import torch
from torch import Tensor


class ErrorRates(NamedTuple):
    """How often a threshold is wrong, on either side."""

    false_accepts: float
    """Share of the negatives with score ≥ τ."""
    false_rejects: float
    """Share of the positives with score < τ."""


def equal_error_threshold(positive_scores: Tensor, negative_scores: Tensor) -> float:
    """The threshold τ at which as large a share of negatives is accepted as of positives is rejected.

        τ = argmin_t | FAR(t) - FRR(t) |,   FAR(t) = P(negative ≥ t),   FRR(t) = P(positive < t)

    The equal-error point of a receiver operating characteristic, as in speaker verification. Thresholds are the
    middles between neighbouring scores; where several are equally good, the middle of the lowest and the highest.

    Args:
        positive_scores: [positives] scores that should be accepted.
        negative_scores: [negatives] scores that should be rejected.

    Returns:
        τ; a score is accepted when it is at least τ.

    Raises:
        ValueError: One side is empty, so it has no error rate.
    """
    if not len(positive_scores) or not len(negative_scores):
        raise ValueError(
            f"an equal-error threshold needs scores of both kinds, got {len(positive_scores)} positive and "
            f"{len(negative_scores)} negative"
        )
    positives, negatives = positive_scores.double().sort().values, negative_scores.double().sort().values
    scores = torch.cat([positives, negatives]).unique()  # type: ignore[no-untyped-call]
    candidates = (scores[1:] + scores[:-1]) / 2 if len(scores) > 1 else scores
    false_accepts = 1 - torch.searchsorted(negatives, candidates) / len(negatives)
    false_rejects = torch.searchsorted(positives, candidates) / len(positives)
    gaps = (false_accepts - false_rejects).abs()
    best = candidates[gaps <= gaps.min() + 1e-6]
    return float((best[0] + best[-1]) / 2)


def error_rates(positive_scores: Tensor, negative_scores: Tensor, *, threshold: float) -> ErrorRates:
    """FAR and FRR of a threshold.

    Args:
        positive_scores: [positives] scores that should be accepted.
        negative_scores: [negatives] scores that should be rejected.
        threshold: τ; a score is accepted when it is at least τ.

    Returns:
        Both rates, in 0..1.
    """
    return ErrorRates(
        false_accepts=(negative_scores >= threshold).double().mean().item(),
        false_rejects=(positive_scores < threshold).double().mean().item(),
    )

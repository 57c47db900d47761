"""Raw scores in, one number a completion out."""

from collections.abc import Sequence


def weighted_sum(scores: Sequence[float | None], weights: Sequence[float]) -> float | None:
    """Σ weight · score; None where a term has no score, or where there is no term.

    Args:
        scores: Of one completion, a term each.
        weights: Weights of the terms.
    """
    known = [score for score in scores if score is not None]
    if not known or len(known) < len(scores):
        return None
    return sum(weight * score for weight, score in zip(weights, known, strict=True))


COMBINERS = {"sum": weighted_sum}

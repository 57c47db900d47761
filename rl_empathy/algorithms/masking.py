"""Sums over the tokens that a mask selects."""

from torch import Tensor


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum the values where the mask is true; what the mask hides may be anything, even not finite.

    Args:
        values: [...] numbers.
        mask: [...] bool, same shape.

    Returns:
        [] the sum.
    """
    return values.masked_fill(~mask, 0.0).sum()

"""Sums and means over the tokens that a mask selects."""

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


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Average the values where the mask is true; 0 where it is true nowhere.

    Args:
        values: [...] numbers.
        mask: [...] bool, same shape.

    Returns:
        [] the mean.
    """
    return masked_sum(values, mask) / mask.sum().clamp(min=1)

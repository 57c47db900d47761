"""Learning rate by step, as a factor of the peak."""

import math
from typing import Literal

COSINE_FLOOR = 0.1


def scheduled(
    schedule: Literal["cosine", "constant"], step: int, *, warmup_steps: float, num_steps: int
) -> float:
    """The factor of the peak learning rate, by the name of a schedule.

    Args:
        schedule: Its name in a run file.
        step: The optimizer step about to be made, from 1.
        warmup_steps: Below 1 a share of `num_steps`, otherwise a number of steps.
        num_steps: Steps in all.
    """
    warmup = warmup_length(warmup_steps, num_steps=num_steps)
    if schedule == "constant":
        return warmup_constant(step, warmup_steps=warmup)
    return warmup_cosine(step, warmup_steps=warmup, num_steps=num_steps)


def warmup_length(wanted: float, *, num_steps: int) -> int:
    """Optimizer steps of a warm-up that is given in steps or as a share of all steps.

    Args:
        wanted: Below 1 a share of `num_steps`, otherwise a number of steps.
        num_steps: Steps in all.

    Returns:
        Whole steps; a share is rounded to the nearest.
    """
    return round(wanted * num_steps) if wanted < 1 else int(wanted)


def warmup_cosine(step: int, *, warmup_steps: int, num_steps: int) -> float:
    """Linear warm-up, then a half cosine down to a tenth (SGDR without restarts, arXiv:1608.03983, eq. 5).

    Args:
        step: The optimizer step about to be made, from 1.
        warmup_steps: Steps until the peak; step `warmup_steps` has the factor 1.
        num_steps: Steps in all; step `num_steps` has the factor 0.1.

    Returns:
        The factor of the peak learning rate, in (0, 1].
    """
    if step <= warmup_steps:
        return step / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps))
    return COSINE_FLOOR + (1 - COSINE_FLOOR) * 0.5 * (1 + math.cos(math.pi * progress))


def warmup_constant(step: int, *, warmup_steps: int) -> float:
    """Linear warm-up, then the peak.

    Args:
        step: The optimizer step about to be made, from 1.
        warmup_steps: Steps until the peak.

    Returns:
        The factor of the peak learning rate, in (0, 1].
    """
    return min(1.0, step / warmup_steps) if warmup_steps else 1.0

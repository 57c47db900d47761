"""Rewards of a group to advantages. Completions whose reward failed are left out of their group's statistics."""

from typing import Literal

import torch
from torch import Tensor

AdvantageKind = Literal["group_std", "group_mean", "rloo"]

STD_FLOOR = 1e-6
"""A group whose spread is below this has no learning signal; its advantages are zero, not huge."""


def group_advantages(rewards: Tensor, valid: Tensor, *, kind: AdvantageKind) -> Tensor:
    """Reward relative to the other completions of the same prompt.

        group_std    A_i = (r_i - mean(r)) / std(r)             GRPO, arXiv:2402.03300, sec. 4.1.2
        group_mean   A_i =  r_i - mean(r)                       Dr. GRPO, arXiv:2503.20783
        rloo         A_i =  r_i - mean of the others            RLOO, arXiv:2402.14740, sec. 2.2

    The standard deviation is that of the population (divided by n). `group_mean` leaves the division out,
    so that easy and hard prompts weigh the same.

    Args:
        rewards: [groups, group_size] total reward; anything where `valid` is false.
        valid: [groups, group_size] bool, false where a reward failed (C3).
        kind: Baseline and scale.

    Returns:
        [groups, group_size] advantages; those of a group sum to zero, and are zero where `valid` is false.

    Raises:
        ValueError: A group has fewer than two valid completions, so it has no baseline.
    """
    counts = valid.sum(dim=-1, keepdim=True)
    if bool((counts < 2).any()):
        raise ValueError(f"a group has {int(counts.min())} valid completion(s); a baseline needs two")
    kept = rewards.masked_fill(~valid, 0.0)
    centred = (kept - kept.sum(dim=-1, keepdim=True) / counts).masked_fill(~valid, 0.0)
    if kind == "group_mean":
        return centred
    if kind == "rloo":
        return centred * counts / (counts - 1)
    std = (centred.square().sum(dim=-1, keepdim=True) / counts).sqrt()
    return torch.where(std > STD_FLOOR, centred / std.clamp(min=STD_FLOOR), torch.zeros_like(centred))

"""Scores of reward terms to advantages, as what each term contributes: the contributions of a completion sum to its
advantage. Completions whose reward failed are left out before.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

AdvantageKind = Literal["group_std", "group_mean", "rloo", "gdpo"]

STD_FLOOR = 1e-6
"""Scores whose deviation is below this carry no signal; their advantages are zero, not huge."""


def group_contributions(scores: Tensor, weights: Tensor, *, kind: AdvantageKind) -> Tensor:
    """What each reward term adds to the advantages within one group, r_i = Σ_k w_k s_ki being the reward.

        group_std    A_i = (r_i - mean(r)) / std(r)             GRPO, arXiv:2402.03300, sec. 4.1.2
        group_mean   A_i =  r_i - mean(r)                       Dr. GRPO, arXiv:2503.20783
        rloo         A_i =  r_i - mean of the others            RLOO, arXiv:2402.14740, sec. 2.2
        gdpo         A_i = Σ_k w_k (s_ki - mean(s_k)) / std(s_k)          GDPO, arXiv:2601.05242

    The standard deviation is that of a sample (divided by n - 1), as in TRL, verl and OpenRLHF. They add 1e-4 or 1e-6
    to it; here nothing is added, and a deviation below `STD_FLOOR` gives zeros. `group_mean` leaves the division out,
    so that easy and hard prompts weigh the same. In `group_std` a rare format failure has the largest deviation, and
    the other terms of its group shrink with the division; in `gdpo` each term has a scale of its own. `gdpo` is
    divided once more, by `batch_scale`.

    Args:
        scores: [terms, completions] raw score of every term on every valid completion of the group.
        weights: [terms] factor of each term.
        kind: Baseline and scale.

    Returns:
        [terms, completions] contributions; the sum over the terms is A, and the sum over a group is zero.

    Raises:
        ValueError: The group has fewer than two completions, so it has no baseline.
    """
    count = scores.shape[-1]
    if count < 2:
        raise ValueError(f"a group has {count} valid completion(s); a baseline needs two")
    centred = scores - scores.mean(dim=-1, keepdim=True)
    weighted = centred * weights[:, None]
    if kind == "group_mean":
        return weighted
    if kind == "rloo":
        return weighted * (count / (count - 1))
    if kind == "gdpo":
        return weights[:, None] * _scaled(centred, centred.std(dim=-1, keepdim=True))
    return _scaled(weighted, weighted.sum(dim=0).std())


def batch_scale(contributions: Sequence[Tensor]) -> float:
    """What `gdpo` multiplies every contribution by: one over the deviation of the advantages over a batch.

        Â_i = A_i / std(A over the batch)               GDPO, arXiv:2601.05242: normalised over the batch

    The paper also subtracts the mean over the batch. It is zero here, since the advantages of every group sum to zero.

    Args:
        contributions: [terms, completions] of every group of the batch, as `group_contributions` gives them.

    Returns:
        The factor; zero where no advantage differs.
    """
    deviation = float(torch.cat([group.sum(dim=0) for group in contributions]).std())
    return 1 / deviation if deviation > STD_FLOOR else 0.0


def advantage_shares(contributions: Sequence[Tensor]) -> Tensor:
    """How large each term's part in the advantages is.

        share_k = Σ_i |c_ki| / Σ_j Σ_i |c_ji|           over the completions i of all groups

    Args:
        contributions: [terms, completions] of every group.

    Returns:
        [terms] shares, which sum to one; nan where no advantage differs.
    """
    sizes = torch.stack([group.abs().sum(dim=-1) for group in contributions]).sum(dim=0)
    return sizes / sizes.sum()


def _scaled(values: Tensor, std: Tensor) -> Tensor:
    return torch.where(std > STD_FLOOR, values / std.clamp(min=STD_FLOOR), torch.zeros_like(values))

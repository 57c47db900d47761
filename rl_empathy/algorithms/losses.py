"""Losses as pure functions. Each is a sum over tokens divided by a count that is passed in, so that the way the
tokens are cut into micro-batches and ranks changes nothing.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rl_empathy.algorithms.kl import LOG_RATIO_LIMIT
from rl_empathy.algorithms.masking import masked_sum

Correction = Literal["clip", "tis"]


class PolicyLoss(NamedTuple):
    """The surrogate loss and what it saw, each a sum over the masked tokens (the caller divides by the count)."""

    loss: Tensor
    """[] differentiable, already divided by `num_tokens`."""
    clipped: Tensor
    """[] tokens whose clip or truncation was active."""
    ratio_sum: Tensor
    """[] sum of π/μ."""
    ratio_max: Tensor
    """[] largest π/μ."""


def sft_loss(policy_logprobs: Tensor, loss_mask: Tensor, *, num_tokens: float) -> Tensor:
    """Negative log-likelihood of the masked tokens, divided by `num_tokens`.

        L = - Σ_t m_t log π(t) / N

    Args:
        policy_logprobs: [tokens] log π, nats.
        loss_mask: [tokens] bool, true where a token is trained.
        num_tokens: N, the trained tokens of the whole step over all micro-batches and ranks.

    Returns:
        [] the loss, nats.
    """
    return -masked_sum(policy_logprobs, loss_mask) / num_tokens


def policy_loss(
    policy_logprobs: Tensor,
    start_logprobs: Tensor,
    rollout_logprobs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    *,
    correction: Correction,
    clip_low: float,
    clip_high: float,
    tis_cap: float,
    num_tokens: float,
) -> PolicyLoss:
    """The clipped surrogate of PPO (arXiv:1707.06347, eq. 7), with the off-policy correction named.

        clip   r = π/μ,    L = - Σ min(r A, clip(r, 1-ε_low, 1+ε_high) A) / N
        tis    r = π/π_p,  w = min(π_p/μ, cap) held constant,
               L = - Σ w · min(r A, clip(r, 1-ε_low, 1+ε_high) A) / N

    μ is the rollout worker's, π_p the trainer's at the start of the step, π the trainer's now; μ divides once in both.
    Truncated importance sampling: https://fengyao.notion.site/off-policy-rl; two clip bounds: DAPO (arXiv:2503.14476,
    eq. 10). With one update a step π equals π_p in value, so in `tis` the clip is idle and only the weight acts.

    Args:
        policy_logprobs: [tokens] log π, nats, differentiable.
        start_logprobs: [tokens] log π_p, nats.
        rollout_logprobs: [tokens] log μ, nats.
        advantages: [tokens] the advantage of each token's completion.
        loss_mask: [tokens] bool, true where a token is trained.
        correction: "clip" or "tis".
        clip_low: ε_low.
        clip_high: ε_high.
        tis_cap: Largest weight of `tis`.
        num_tokens: N, the trained tokens of the whole update over all micro-batches and ranks.

    Returns:
        The loss and its counts.
    """

    def ratio_to(other: Tensor) -> Tensor:
        return (policy_logprobs - other).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()

    rollout_ratio = ratio_to(rollout_logprobs)
    if correction == "clip":
        ratio, weight = rollout_ratio, torch.ones_like(advantages)
        truncated = torch.zeros_like(loss_mask)
    else:
        ratio = ratio_to(start_logprobs)
        raw = (start_logprobs - rollout_logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp().detach()
        weight, truncated = raw.clamp(max=tis_cap), raw > tis_cap
    free = ratio * advantages
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    loss = -masked_sum(weight * torch.minimum(free, bounded), loss_mask) / num_tokens
    with torch.no_grad():
        active = ((bounded < free) | truncated) & loss_mask
        seen = rollout_ratio.masked_fill(~loss_mask, 0.0)
        largest = seen.max() if seen.numel() else seen.sum()
    return PolicyLoss(loss, active.sum(), seen.sum().detach(), largest.detach())


def triplet_loss(anchors: Tensor, positives: Tensor, negatives: Tensor, *, margin: float) -> Tensor:
    """Triplet margin loss on cosine similarities (FaceNet, arXiv:1503.03832, eq. 1, with cosine for the distance).

        L = mean_i max(0, margin - cos(a_i, p_i) + cos(a_i, n_i))

    Args:
        anchors: [pairs, width] unit vectors of the questions.
        positives: [pairs, width] unit vectors of their answers.
        negatives: [pairs, width] unit vectors of one wrong answer each.
        margin: Wanted distance between the two cosines.

    Returns:
        [] the loss.
    """
    near, far = (anchors * positives).sum(-1), (anchors * negatives).sum(-1)
    return functional.relu(margin - near + far).mean()


def infonce_loss(anchors: Tensor, positives: Tensor, negatives: Tensor, *, temperature: float) -> Tensor:
    """InfoNCE (arXiv:1807.03748, eq. 4) over every answer of the batch and every drawn negative.

        L = - mean_i log  exp(cos(a_i, p_i)/τ) / ( Σ_j exp(cos(a_i, p_j)/τ) + Σ_j exp(cos(a_i, n_j)/τ) )

    Args:
        anchors: [pairs, width] unit vectors of the questions.
        positives: [pairs, width] unit vectors of their answers.
        negatives: [pairs, width] unit vectors of one wrong answer each.
        temperature: τ.

    Returns:
        [] the loss, nats.
    """
    logits = anchors @ torch.cat([positives, negatives]).T / temperature
    return functional.cross_entropy(logits, torch.arange(len(anchors), device=anchors.device))

"""Losses as pure functions. Each is a sum over tokens divided by a count that is passed in, so that the way the
tokens are cut into micro-batches and ranks changes nothing.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rl_empathy.algorithms.corrections import Weights
from rl_empathy.algorithms.kl import LOG_RATIO_LIMIT
from rl_empathy.algorithms.masking import masked_sum


class PolicyLoss(NamedTuple):
    """The surrogate loss, and where it was bounded."""

    loss: Tensor
    """[] differentiable, already divided by `num_tokens`."""
    clipped: Tensor
    """[tokens] bool, trained tokens whose ratio was clipped, truncated or masked."""


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
    old_logprobs: Tensor,
    weights: Weights,
    advantages: Tensor,
    loss_mask: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    num_tokens: float,
) -> PolicyLoss:
    """The clipped surrogate of PPO (arXiv:1707.06347, eq. 7), each token with a constant weight.

        r = π/π_old,    L = - Σ w · min(r A, clip(r, 1-ε_low, 1+ε_high) A) / N

    Two clip bounds: DAPO (arXiv:2503.14476, eq. 10). The correction `clip` gives μ for π_old and weights of one; all
    others give π_p, the trainer's at the start of the step, and weights made of π_p/μ (see `corrections`). With one
    update a step π equals π_p in value, so there the clip is idle and only the weight acts.

    Args:
        policy_logprobs: [tokens] log π, nats, differentiable.
        old_logprobs: [tokens] log π_old, nats.
        weights: [tokens] w, and where the correction stepped in.
        advantages: [tokens] the advantage of each token's completion.
        loss_mask: [tokens] bool, true where a token is trained.
        clip_low: ε_low.
        clip_high: ε_high.
        num_tokens: N, the trained tokens of the whole update over all micro-batches and ranks.

    Returns:
        The loss and which tokens were clipped, truncated or masked.
    """
    ratio = (policy_logprobs - old_logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    free = ratio * advantages
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    loss = -masked_sum(weights.values * torch.minimum(free, bounded), loss_mask) / num_tokens
    return PolicyLoss(loss, ((bounded < free) | weights.touched) & loss_mask)


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


def infonce_loss(
    anchors: Tensor, positives: Tensor, negatives: Tensor, is_own: Tensor, *, temperature: float
) -> Tensor:
    """InfoNCE (arXiv:1807.03748, eq. 4) over every answer of the batch and every drawn negative.

        L = - mean_i log  exp(cos(a_i, p_i)/τ) / Σ_j exp(cos(a_i, c_j)/τ),    c = p and n, those of is_own[i] left out

    The sum leaves out candidates that are right answers to the same question: as negatives they would teach that a
    right answer is wrong.

    Args:
        anchors: [pairs, width] unit vectors of the questions.
        positives: [pairs, width] unit vectors of their answers.
        negatives: [pairs, width] unit vectors of one wrong answer each.
        is_own: [pairs, 2 pairs] bool, true where positive j, or negative j - pairs, is a right answer to question i.
            The diagonal, which is the pair itself, counts as false.
        temperature: τ.

    Returns:
        [] the loss, nats.
    """
    pairs = torch.arange(len(anchors), device=anchors.device)
    left_out = is_own.clone()
    left_out[pairs, pairs] = False
    logits = anchors @ torch.cat([positives, negatives]).T / temperature
    return functional.cross_entropy(logits.masked_fill(left_out, -torch.inf), pairs)

"""Off-policy corrections by name: what a token weighs in the loss whose rollout worker was not the policy that trains.

    μ    the rollout worker's log-prob at sampling
    π_p  the trainer's at the start of the step
    w    a constant weight made of π_p/μ, which multiplies the clipped surrogate of π/π_p

`clip` has no weight: its surrogate is that of π/μ itself. In all of them μ divides once.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rl_empathy.algorithms.kl import LOG_RATIO_LIMIT

Correction = Literal["clip", "tis", "mask", "sequence_mask", "decoupled"]


class Weights(NamedTuple):
    """What each token weighs, and where the correction stepped in."""

    values: Tensor
    """[tokens] w, constant."""
    touched: Tensor
    """[tokens] bool, true where a ratio was truncated or masked."""


def no_weights(start_logprobs: Tensor) -> Weights:
    """Every token weighs one (`clip`).

    Args:
        start_logprobs: [tokens] log π_p, nats.
    """
    return Weights(torch.ones_like(start_logprobs), torch.zeros_like(start_logprobs, dtype=torch.bool))


def decoupled_weights(start_logprobs: Tensor, rollout_logprobs: Tensor) -> Weights:
    """The whole ratio, as in decoupled PPO.

        w_t = π_p(t) / μ(t)                        arXiv:2110.00641; asynchronous: AReaL, arXiv:2505.24298

    Args:
        start_logprobs: [tokens] log π_p, nats.
        rollout_logprobs: [tokens] log μ, nats.
    """
    log_ratio = start_logprobs - rollout_logprobs
    values = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp().detach()
    return Weights(values, log_ratio.abs() > LOG_RATIO_LIMIT)


def tis_weights(start_logprobs: Tensor, rollout_logprobs: Tensor, *, cap: float) -> Weights:
    """Truncated importance sampling.

        w_t = min( π_p(t) / μ(t), cap )            https://fengyao.notion.site/off-policy-rl

    Args:
        start_logprobs: [tokens] log π_p, nats.
        rollout_logprobs: [tokens] log μ, nats.
        cap: Largest weight.
    """
    ratio = decoupled_weights(start_logprobs, rollout_logprobs).values
    return Weights(ratio.clamp(max=cap), ratio > cap)


def mask_weights(start_logprobs: Tensor, rollout_logprobs: Tensor, *, low: float, high: float) -> Weights:
    """Tokens on which trainer and rollout worker disagree too much are left out.

        w_t = π_p(t) / μ(t) where low ≤ that ≤ high, else 0         IcePop, arXiv:2510.18855

    Args:
        start_logprobs: [tokens] log π_p, nats.
        rollout_logprobs: [tokens] log μ, nats.
        low: Smallest ratio that is kept.
        high: Largest ratio that is kept.
    """
    ratio = decoupled_weights(start_logprobs, rollout_logprobs).values
    outside = (ratio < low) | (ratio > high)
    return Weights(ratio.masked_fill(outside, 0.0), outside)


def sequence_mask_weights(
    start_logprobs: Tensor,
    rollout_logprobs: Tensor,
    completion_index: Tensor,
    loss_mask: Tensor,
    *,
    low: float,
    high: float,
    cap: float,
) -> Weights:
    """Completions on which the two disagree too much are left out whole; the others are weighted as in `tis`.

        g_i = exp( mean_t log π_p(t)/μ(t) )  over completion i
        w_t = min( π_p(t) / μ(t), cap ) where low ≤ g_i ≤ high, else 0

    The mean log-ratio of a sequence as the measure is that of DeepSeek-V3.2 (arXiv:2512.02556), which
    masks on one side and negative advantages only; here both sides and either sign, so that nothing is favoured.

    Args:
        start_logprobs: [tokens] log π_p, nats.
        rollout_logprobs: [tokens] log μ, nats.
        completion_index: [tokens] int, equal within a completion and different between them.
        loss_mask: [tokens] bool, true where a token is trained; the mean is over these.
        low: Smallest g that is kept.
        high: Largest g that is kept.
        cap: Largest weight.
    """
    weights = tis_weights(start_logprobs, rollout_logprobs, cap=cap)
    _, number = torch.unique(completion_index, return_inverse=True)
    log_ratio = (start_logprobs - rollout_logprobs).detach().masked_fill(~loss_mask, 0.0)
    zeros = log_ratio.new_zeros(int(number.max()) + 1 if len(number) else 0)
    total = zeros.index_add(0, number, log_ratio)
    count = zeros.index_add(0, number, loss_mask.to(log_ratio.dtype))
    mean_ratio = (total / count.clamp(min=1)).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()[number]
    outside = (mean_ratio < low) | (mean_ratio > high)
    return Weights(weights.values.masked_fill(outside, 0.0), weights.touched | outside)

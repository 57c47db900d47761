"""Estimators of KL(policy || reference) from sampled tokens: per token, for the loss or for the advantages.

What their gradients are, with π the policy, ρ the reference, μ the distribution that sampled:

    k3_ratio       Σ_t E over prefixes from μ of ∇KL(π(·|prefix) || ρ(·|prefix)): exact for each token given its prefix,
                   on and off policy. What is missing is how π changes the prefixes that it meets, so over whole
                   sequences it is not the divergence's gradient, not even on policy.
    k3_plain       another gradient even given the prefix; for parity with TRL, OpenRLHF and CogFlow
    k1_in_reward   on policy the exact gradient of the divergence over whole sequences. Off policy the correction
                   (`corrections`) weighs each token given its prefix, the prefixes stay those of μ, and the gradient is
                   as far off as that of k3_ratio.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

KLEstimator = Literal["k3_ratio", "k3_plain", "k1_in_reward"]

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are clamped to ± this before exp, nats: one bad token must not overflow a batch."""
RATIO_CAP = 10.0
"""The importance ratio inside `k3_ratio` is truncated here."""


def k3_plain(policy_logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """The low-variance estimator k3, differentiated as it stands.

        k3 = exp(log ρ - log π) - (log ρ - log π) - 1          http://joschu.net/blog/kl-approx.html; GRPO, eq. 4

    Its value is an unbiased estimate of the divergence for tokens drawn from π, but its gradient is not the
    divergence's: it ignores how π moves the samples. Here for parity with TRL, OpenRLHF and CogFlow.

    Args:
        policy_logprobs: [tokens] log π, nats.
        reference_logprobs: [tokens] log ρ, nats.

    Returns:
        [tokens] estimates, nats, each at least zero.
    """
    log_ratio = (reference_logprobs - policy_logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return log_ratio.exp() - log_ratio - 1


def k3_ratio(policy_logprobs: Tensor, reference_logprobs: Tensor, rollout_logprobs: Tensor) -> Tensor:
    """k3 weighted by the importance ratio π/μ of its token, with the gradient through the ratio as well.

        E_μ[ (π/μ) · k3 | prefix ] = KL(π(·|prefix) || ρ(·|prefix)), and so do the gradients

    So each token's estimate is unbiased given its prefix, whoever wrote it, as long as the ratio is below
    `RATIO_CAP`; above, ratio and gradient are those of the truncated weight (bias against variance). The sum over a
    sequence is biased: the prefixes are μ's and not π's, and no gradient flows through how π chooses them. Enumerated
    over two steps for twelve random policies, the gradient is off by 38 % of the exact one's length in the median on
    policy (9 to 103 %), and by 53 % off policy (22 to 134 %). Follows from the score-function identity; the correction
    that arXiv:2510.01555 and arXiv:2512.21852 ask for.

    Args:
        policy_logprobs: [tokens] log π, nats.
        reference_logprobs: [tokens] log ρ, nats.
        rollout_logprobs: [tokens] log μ of the sampling distribution, nats.

    Returns:
        [tokens] estimates, nats.
    """
    log_ratio = (policy_logprobs - rollout_logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    ratio = log_ratio.exp().clamp(max=RATIO_CAP)
    return ratio * k3_plain(policy_logprobs, reference_logprobs)


def k1_to_go(start_logprobs: Tensor, reference_logprobs: Tensor, completion_index: Tensor) -> Tensor:
    """What `k1_in_reward` takes from each token's advantage, times the coefficient; no gradient flows through it.

        k1_s = log π_p(s) - log ρ(s),    K_t = Σ_{s ≥ t} k1_s  over the rest of the completion

        ∇KL(π || ρ) = E_π[ Σ_t ∇log π(t) · K_t ]      over whole sequences, by the score-function identity

    A token is charged for all that follows it, since it chose the prefix of all that follows; what came before it has
    no part, and leaving it out changes no expectation. π_p is the trainer's policy at the start of the step and not
    the rollout worker's: the divergence wanted is that of the policy that is trained, and between two engines the
    rounding of log μ - log ρ would count as divergence.

    Args:
        start_logprobs: [tokens] log π_p, nats.
        reference_logprobs: [tokens] log ρ, nats.
        completion_index: [tokens] int, equal within a completion, whose tokens are neighbours.

    Returns:
        [tokens] K, nats, constant.
    """
    k1 = (start_logprobs - reference_logprobs).detach().double()
    if not len(k1):
        return k1.to(start_logprobs.dtype)
    _, lengths = torch.unique_consecutive(completion_index, return_counts=True)
    sums = k1.cumsum(dim=0)
    ends = sums[lengths.cumsum(dim=0) - 1].repeat_interleave(lengths)
    return (ends - sums + k1).to(start_logprobs.dtype)


def siblings_mean(values: Tensor, lengths: Tensor) -> Tensor:
    """Mean of the other completions of a group at the same place, zero after an end: a baseline for `k1_to_go`.

    It does not depend on the completion that it is taken from, so it changes no expectation, only the variance.

    Args:
        values: [tokens] of the completions of one group, one after the other.
        lengths: [completions] int, tokens of each; two completions at least.

    Returns:
        [tokens] the means.
    """
    parts = torch.split(values, lengths.tolist())
    padded = pad_sequence(list(parts), batch_first=True)
    means = (padded.sum(dim=0) - padded) / (len(parts) - 1)
    return torch.cat([row[: len(part)] for row, part in zip(means, parts, strict=True)])


def kl_estimate(
    policy_logprobs: Tensor,
    reference_logprobs: Tensor,
    rollout_logprobs: Tensor,
    *,
    estimator: Literal["k3_ratio", "k3_plain"],
) -> Tensor:
    """The KL term of the loss by the estimator's name. All tensors [tokens], result [tokens], nats."""
    if estimator == "k3_ratio":
        return k3_ratio(policy_logprobs, reference_logprobs, rollout_logprobs)
    return k3_plain(policy_logprobs, reference_logprobs)

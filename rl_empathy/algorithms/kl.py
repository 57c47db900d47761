"""Estimators of KL(policy || reference) from sampled tokens, per token, differentiable."""

from typing import Literal

from torch import Tensor

KLEstimator = Literal["k3_ratio", "k3_plain"]

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
    """k3 weighted by the importance ratio π/μ, with the gradient through the ratio as well.

        E_μ[ (π/μ) · k3 ] = KL(π || ρ), and so do the gradients

    so it is unbiased whoever wrote the tokens, as long as the ratio is below `RATIO_CAP`; above, ratio and gradient
    are those of the truncated weight (bias against variance). Follows from the score-function identity; the
    correction that arXiv:2510.01555 and arXiv:2512.21852 ask for.

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


def kl_estimate(
    policy_logprobs: Tensor, reference_logprobs: Tensor, rollout_logprobs: Tensor, *, estimator: KLEstimator
) -> Tensor:
    """Dispatch by the estimator's name; see the functions above. All arguments [tokens], result [tokens], nats."""
    if estimator == "k3_ratio":
        return k3_ratio(policy_logprobs, reference_logprobs, rollout_logprobs)
    return k3_plain(policy_logprobs, reference_logprobs)

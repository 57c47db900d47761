"""A vocabulary of six tokens, enumerated: expectations and their gradients are exact."""

import pytest
import torch

from rl_empathy.algorithms.kl import k3_plain, k3_ratio

POLICY = torch.tensor([0.3, -0.2, 0.8, 0.0, -1.0, 0.4], dtype=torch.float64)
REFERENCE = torch.tensor([0.1, 0.1, 0.5, -0.3, -0.5, 0.2], dtype=torch.float64).log_softmax(-1)
ROLLOUT = torch.tensor([0.0, 0.2, 0.3, 0.1, -0.4, 0.9], dtype=torch.float64).log_softmax(-1)


def exact():
    logits = POLICY.clone().requires_grad_()
    logprobs = logits.log_softmax(-1)
    divergence = (logprobs.exp() * (logprobs - REFERENCE)).sum()
    divergence.backward()
    return divergence.item(), logits.grad


def expectation(estimate):
    """E over tokens drawn from the rollout distribution: every token, weighted by its probability."""
    logits = POLICY.clone().requires_grad_()
    value = (ROLLOUT.exp() * estimate(logits.log_softmax(-1))).sum()
    value.backward()
    return value.item(), logits.grad


def test_k3_ratio_has_the_value_and_the_gradient_of_the_divergence_off_policy():
    value, gradient = expectation(lambda logprobs: k3_ratio(logprobs, REFERENCE, ROLLOUT))
    wanted, wanted_gradient = exact()
    assert value == pytest.approx(wanted)
    assert torch.allclose(gradient, wanted_gradient, atol=1e-12)


def test_k3_plain_has_the_right_value_but_another_gradient_on_policy():
    frozen = POLICY.log_softmax(-1).exp()
    logits = POLICY.clone().requires_grad_()
    value = (frozen * k3_plain(logits.log_softmax(-1), REFERENCE)).sum()
    value.backward()
    wanted, wanted_gradient = exact()
    assert value.item() == pytest.approx(wanted)
    assert not torch.allclose(logits.grad, wanted_gradient, atol=1e-3)


def test_equal_policies_have_no_divergence():
    assert k3_plain(REFERENCE, REFERENCE).abs().max().item() == 0


def test_one_absurd_token_stays_finite():
    estimate = k3_plain(torch.tensor([-500.0]), torch.tensor([0.0]))
    assert torch.isfinite(estimate).all()

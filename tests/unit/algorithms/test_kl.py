"""Small vocabularies, enumerated: expectations and their gradients are exact."""

import itertools
from statistics import median

import pytest
import torch

from rl_empathy.algorithms.corrections import decoupled_weights
from rl_empathy.algorithms.kl import k1_to_go, k3_plain, k3_ratio, siblings_mean
from rl_empathy.algorithms.losses import policy_loss

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


def test_k3_ratio_has_the_value_and_the_gradient_of_one_tokens_divergence_off_policy():
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


# Two steps: the first token's logits, then those of the second token after every first one: [1 + vocab, vocab].
VOCAB = 4
SEQUENCES = list(itertools.product(range(VOCAB), repeat=2))


def random_policy(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1 + VOCAB, VOCAB, generator=generator, dtype=torch.float64)


def sequence_logprobs(logits):
    """[sequences, 2] log-probs of the tokens of every sequence."""
    logprobs = logits.log_softmax(-1)
    return torch.stack([torch.stack([logprobs[0, a], logprobs[1 + a, b]]) for a, b in SEQUENCES])


def two_step_gradient(estimate, policy, reference, rollout):
    """Expected gradient of a loss over sequences drawn from `rollout`.

    Args:
        estimate: (policy, reference, rollout log-probs [2]) -> [] loss of one sequence.
        policy, reference, rollout: [1 + vocab, vocab] logits.
    """
    logits = policy.clone().requires_grad_()
    ours, theirs, drawn = (sequence_logprobs(x) for x in (logits, reference, rollout))
    losses = [estimate(*three) for three in zip(ours, theirs, drawn, strict=True)]
    (drawn.sum(dim=1).exp() * torch.stack(losses)).sum().backward()
    return logits.grad


def exact_two_step_gradient(policy, reference):
    logits = policy.clone().requires_grad_()
    ours, theirs = sequence_logprobs(logits), sequence_logprobs(reference)
    (ours.sum(dim=1).exp() * (ours - theirs).sum(dim=1)).sum().backward()
    return logits.grad


def wrong_part(gradient, wanted):
    """How far a gradient is from the wanted one, as a part of the wanted one's length."""
    return float((gradient - wanted).norm() / wanted.norm())


def ratio_loss(policy, reference, rollout):
    return k3_ratio(policy, reference, rollout).sum()


def in_reward_loss(policy, reference, rollout):
    """As the trainer has it: the KL taken from an advantage of zero, under the clipped surrogate."""
    charged = k1_to_go(policy, reference, torch.zeros(2, dtype=torch.int64))
    everything = torch.ones(2, dtype=torch.bool)
    return policy_loss(
        policy,
        policy.detach(),
        decoupled_weights(policy, rollout),
        -charged,
        everything,
        clip_low=0.2,
        clip_high=0.28,
        num_tokens=1,
    ).loss


def wrong_parts(loss, *, off_policy):
    """Over twelve random policies, references and rollout policies, sorted."""
    draws = [[random_policy(3 * i + j) for j in range(3)] for i in range(12)]
    return sorted(
        wrong_part(
            two_step_gradient(loss, policy, reference, rollout if off_policy else policy),
            exact_two_step_gradient(policy, reference),
        )
        for policy, reference, rollout in draws
    )


def test_k3_ratio_misses_a_part_of_the_gradient_over_two_steps_on_and_off_policy():
    on, off = (wrong_parts(ratio_loss, off_policy=off_policy) for off_policy in (False, True))
    assert (on[0], median(on), on[-1]) == pytest.approx((0.09, 0.38, 1.03), abs=0.01)
    assert (off[0], median(off), off[-1]) == pytest.approx((0.22, 0.53, 1.34), abs=0.01)


def test_k3_ratio_is_exact_for_the_last_step_on_policy_and_misses_how_the_first_one_leads_there():
    policy, reference = random_policy(0), random_policy(1)
    gradient = two_step_gradient(ratio_loss, policy, reference, policy)
    wanted = exact_two_step_gradient(policy, reference)
    assert torch.allclose(gradient[1:], wanted[1:], atol=1e-12)
    assert not torch.allclose(gradient[0], wanted[0], atol=1e-2)


def test_k1_in_reward_has_the_gradient_of_the_divergence_over_two_steps_on_policy():
    for seed in range(5):
        policy, reference = random_policy(seed), random_policy(seed + 100)
        gradient = two_step_gradient(in_reward_loss, policy, reference, policy)
        assert torch.allclose(gradient, exact_two_step_gradient(policy, reference), atol=1e-12)


def test_k1_in_reward_is_not_exact_off_policy_either():
    """With each token weighed by π/μ, as the correction `decoupled` does."""
    assert median(wrong_parts(in_reward_loss, off_policy=True)) == pytest.approx(0.57, abs=0.01)


def test_the_siblings_mean_changes_no_expected_gradient():
    """Over every pair of sequences as a group of two."""
    policy, reference = random_policy(5), random_policy(6)
    frozen = sequence_logprobs(policy)
    to_go = [
        k1_to_go(ours, theirs, torch.zeros(2, dtype=torch.int64))
        for ours, theirs in zip(frozen, sequence_logprobs(reference), strict=True)
    ]
    logits = policy.clone().requires_grad_()
    ours, lengths, total = sequence_logprobs(logits), torch.tensor([2, 2]), torch.zeros(())
    for i, j in itertools.product(range(len(SEQUENCES)), repeat=2):
        chance = (frozen[i].sum() + frozen[j].sum()).exp()
        charged = torch.cat([to_go[i], to_go[j]])
        charged = charged - siblings_mean(charged, lengths)
        total = total + chance * (charged * torch.cat([ours[i], ours[j]])).sum() / 2
    total.backward()
    assert torch.allclose(logits.grad, exact_two_step_gradient(policy, reference), atol=1e-12)


def test_k1_to_go_sums_the_rest_of_each_completion_and_no_more():
    policy, reference = torch.tensor([0.0, -1.0, -2.0, -4.0]), torch.tensor([-1.0, -1.5, -1.0, -1.0])
    to_go = k1_to_go(policy.requires_grad_(), reference, torch.tensor([7, 7, 7, 8]))
    assert to_go.tolist() == pytest.approx([1 + 0.5 - 1, 0.5 - 1, -1, -3])
    assert not to_go.requires_grad


def test_the_siblings_mean_leaves_oneself_out_and_counts_ended_ones_as_zero():
    values = torch.tensor([1.0, 2.0, 10.0, 5.0, 6.0, 7.0])
    assert siblings_mean(values, torch.tensor([2, 1, 3])).tolist() == [7.5, 3.0, 3.0, 5.5, 1.0, 0.0]

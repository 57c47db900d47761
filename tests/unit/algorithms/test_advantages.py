import pytest
import torch

from rl_empathy.algorithms.advantages import advantage_shares, batch_scale, group_contributions


def contributions(*scores, weights=None, kind="group_std"):
    return group_contributions(
        torch.tensor(scores, dtype=torch.float64),
        torch.tensor(weights or [1.0] * len(scores), dtype=torch.float64),
        kind=kind,
    )


def advantages(*scores, weights=None, kind="group_std"):
    return contributions(*scores, weights=weights, kind=kind).sum(dim=0).tolist()


def test_group_std_centres_and_scales_by_the_samples_deviation():
    # mean 1, deviations -1 0 0 1, sample variance 2/3
    root = (2 / 3) ** 0.5
    assert advantages([0, 1, 1, 2]) == pytest.approx([-1 / root, 0, 0, 1 / root])


def test_group_mean_only_centres():
    assert advantages([0, 1, 1, 2], kind="group_mean") == pytest.approx([-1, 0, 0, 1])


def test_rloo_compares_with_the_mean_of_the_others():
    assert advantages([0, 1, 2], kind="rloo") == pytest.approx([0 - 1.5, 1 - 1, 2 - 0.5])


@pytest.mark.parametrize("kind", ["group_std", "gdpo"])
def test_equal_rewards_give_zero_not_noise(kind):
    assert advantages([0.1 + 0.2, 0.3, 0.3], kind=kind) == pytest.approx([0, 0, 0])


@pytest.mark.parametrize("kind", ["group_std", "group_mean", "rloo"])
def test_the_terms_are_summed_with_their_weights(kind):
    together = advantages([1, 0, 1], [0.5, 0.25, 0.75], weights=[2.0, -1.0], kind=kind)
    assert together == pytest.approx(advantages([1.5, -0.25, 1.25], kind=kind))


def test_a_group_of_one_has_no_baseline():
    with pytest.raises(ValueError, match="1 valid"):
        advantages([1])


def test_gdpo_gives_each_term_a_scale_of_its_own():
    # both terms, centred and divided by their own deviation, are (-1, 0, 1)
    assert advantages([0, 1, 2], [0.0, 0.1, 0.2], kind="gdpo") == pytest.approx([-2, 0, 2])
    assert advantages([0, 1, 2], [0.0, 0.1, 0.2], weights=[1, 0.5], kind="gdpo") == pytest.approx(
        [-1.5, 0, 1.5]
    )


def test_gdpo_tells_completions_apart_whose_rewards_are_equal():
    assert advantages([1, 0, 0], [0, 1, 0.5]) == pytest.approx([0.5774, 0.5774, -1.1547], abs=1e-4)
    best, second, _ = advantages([1, 0, 0], [0, 1, 0.5], kind="gdpo")
    assert best != pytest.approx(second)


def trl_sum_then_normalize(rewards_per_function, weights, group_size):
    """TRL 1.16, grpo_trainer.py, scale_rewards="group"; [completions, functions]."""
    rewards = (rewards_per_function * weights).sum(dim=1)
    grouped = rewards.view(-1, group_size)
    return (
        (grouped - grouped.mean(dim=1, keepdim=True)) / (grouped.std(dim=1, keepdim=True) + 1e-4)
    ).flatten()


def trl_normalize_then_sum(rewards_per_function, weights, group_size):
    """TRL 1.16, grpo_trainer.py, multi_objective_aggregation="normalize_then_sum"; [completions, functions]."""
    grouped = rewards_per_function.view(-1, group_size, len(weights))
    normalized = (grouped - grouped.mean(dim=1, keepdim=True)) / (grouped.std(dim=1, keepdim=True) + 1e-4)
    rewards = (normalized.view(-1, len(weights)) * weights).sum(dim=1)
    return (rewards - rewards.mean()) / (rewards.std() + 1e-4)


@pytest.mark.parametrize(
    ("kind", "trl"), [("group_std", trl_sum_then_normalize), ("gdpo", trl_normalize_then_sum)]
)
def test_advantages_are_those_of_trl(kind, trl):
    torch.manual_seed(0)
    scores, weights = torch.rand(5, 2, 4, dtype=torch.float64), torch.tensor([1.0, 0.3], dtype=torch.float64)
    groups = [group_contributions(group, weights, kind=kind) for group in scores]
    scale = batch_scale(groups) if kind == "gdpo" else 1.0
    ours = scale * torch.cat([group.sum(dim=0) for group in groups])
    theirs = trl(scores.permute(0, 2, 1).reshape(-1, 2), weights, 4)
    assert torch.allclose(ours, theirs, rtol=2e-3, atol=1e-6)  # they add 1e-4 to every deviation


def test_gdpo_over_a_batch_without_any_spread_is_zero():
    assert batch_scale([contributions([1, 1], kind="gdpo"), contributions([2, 2], kind="gdpo")]) == 0


def test_the_shares_of_the_terms_sum_to_one_by_hand():
    # centred: (-1, 1) and (0.25, -0.25), so 2 and 0.5 in absolute value
    shares = advantage_shares([contributions([0, 2], [0.5, 0.0], kind="group_mean")])
    assert shares.tolist() == pytest.approx([0.8, 0.2])


def test_beside_a_format_failure_gdpo_keeps_more_of_the_answers_differences_than_group_std():
    well_formed, answer = [1, 1, 1, 1, 1, 1, 1, 0], [0.5, 0.6, 0.4, 0.5, 0.6, 0.4, 0.5, 0.0]
    scores = (well_formed, answer)
    seen = {}
    for kind in ("group_std", "gdpo"):
        group = contributions(*scores, kind=kind)
        total = group.sum(dim=0) * (batch_scale([group]) if kind == "gdpo" else 1)
        seen[kind] = float(total[1] - total[2])
    alone = advantages(answer[:7])
    assert seen["group_std"] < (alone[1] - alone[2]) / 5
    assert seen["gdpo"] > 1.3 * seen["group_std"]

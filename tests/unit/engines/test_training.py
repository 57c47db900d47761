"""Real DeepSpeed around a tiny model, on one rank."""

import json
import random
import shutil
from dataclasses import replace

import pytest
import torch

from rl_empathy.config.sections import GRPOConfig, OptimizerConfig
from rl_empathy.engines.grpo_batch import ScoredGroup, step_advantages, training_batch
from rl_empathy.engines.grpo_update import grpo_step, staleness_metrics
from rl_empathy.engines.policy_model import PolicyModel
from rl_empathy.engines.shared_prompt import Sample
from rl_empathy.engines.training import TrainingEngine
from rl_empathy.errors import TrainingError
from rl_empathy.observability.memory import FreedMemory, held_bytes
from rl_empathy.types import PolicyVersion, RolloutGroup, VersionSpan
from tests.fakes import make_completion, make_group, make_prompt, make_rewards
from tests.objectives import OfLogprobs
from tests.tiny_models import make_tiny_model

SAMPLES = [Sample([1, 2, 3, 4], [[5, 6, 7], [8, 9]]), Sample([9, 8], [[7, 6, 5, 4], [3]])]
TOKENS = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    make_tiny_model(path)
    return str(path)


def make_engine(folder, *, microbatch_tokens=4096, layout="shared_prompt", dtype="float32", **optimizer):
    model = PolicyModel(folder, dtype=dtype, layout=layout)
    settings = OptimizerConfig(
        **{"learning_rate": 1e-2, "warmup_steps": 0, "schedule": "constant", **optimizer}
    )
    return TrainingEngine(model, settings, num_steps=10, microbatch_tokens=microbatch_tokens)


NLL = OfLogprobs(SAMPLES, lambda logprobs: -logprobs.sum() / TOKENS)


def weights_of(engine):
    return torch.cat([tensor.flatten().clone() for tensor in engine.weights().values()])


def test_the_loss_falls(folder):
    engine = make_engine(folder)
    losses = [engine.update(NLL).loss for _ in range(8)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
@pytest.mark.parametrize(("limit", "kept"), [(1e6, 50.0), (5.0, 5.0), (0.5, 0.5)])
def test_gradients_are_clipped_at_max_grad_norm_and_nowhere_else(folder, zero_stage, limit, kept):
    """What AdamW was given is its first moment after the first step, over 1 - beta1; its own step hides the size."""
    model = PolicyModel(folder, dtype="float32", layout="shared_prompt")
    settings = OptimizerConfig(learning_rate=1e-4, warmup_steps=0, schedule="constant", max_grad_norm=limit)
    engine = TrainingEngine(model, settings, num_steps=10, microbatch_tokens=4096, zero_stage=zero_stage)
    norm = engine.update(NLL).grad_norm
    scale = 50 / norm
    engine = TrainingEngine(
        PolicyModel(folder, dtype="float32", layout="shared_prompt"),
        settings,
        num_steps=10,
        microbatch_tokens=4096,
        zero_stage=zero_stage,
    )
    told = engine.update(OfLogprobs(SAMPLES, lambda logprobs: -scale * logprobs.sum() / TOKENS)).grad_norm
    moments = [m for name, m in engine.optimizer_state().items() if name.startswith("exp_avg/")]
    given = torch.cat([moment.flatten() for moment in moments]).norm().item() / (1 - 0.9)
    assert told == pytest.approx(50, rel=1e-3)
    assert given == pytest.approx(kept, rel=1e-3)


def test_an_update_keeps_no_memory_that_it_has_freed(folder, monkeypatch):
    """Rows of ever other lengths would fill the heap of the C library with holes, and it would grow at every step."""
    monkeypatch.setattr("rl_empathy.observability.memory.MOST_GROWTH", -(2**40))  # always
    engine = make_engine(folder, microbatch_tokens=1500)
    dice = random.Random(0)
    for _ in range(3):
        rows = [Sample([1] * 100, [[2] * dice.randint(50, 250) for _ in range(8)]) for _ in range(2)]
        engine.update(replace(NLL, samples=rows))
    after = held_bytes()
    FreedMemory().give_back()
    assert after - held_bytes() < 4 * 2**20


def test_micro_batches_and_layouts_change_nothing(folder):
    seen = []
    for settings in ({}, {"microbatch_tokens": 6}, {"layout": "packed"}):
        engine = make_engine(folder, **settings)
        reports = [engine.update(NLL) for _ in range(3)]
        seen.append([number for report in reports for number in (report.loss, report.grad_norm)])
    for numbers in seen[1:]:
        assert numbers == pytest.approx(seen[0], rel=1e-4)


def test_bfloat16_computes_in_bfloat16_and_keeps_updates_smaller_than_it_can_hold(folder):
    exact, coarse = (
        make_engine(folder, learning_rate=1e-6),
        make_engine(folder, dtype="bfloat16", learning_rate=1e-6),
    )
    before = weights_of(coarse)
    reports = [engine.update(NLL) for engine in (exact, coarse)]
    assert reports[1].loss != reports[0].loss
    assert reports[1].loss == pytest.approx(reports[0].loss, rel=1e-2)
    assert reports[1].grad_norm == pytest.approx(reports[0].grad_norm, rel=5e-2)
    moved = weights_of(coarse) - before
    assert moved.abs().max() < 2e-6, "Adam's first step is the learning rate"
    assert (moved != 0).float().mean() > 0.5


def test_a_loss_that_is_not_finite_leaves_the_weights_alone(folder):
    engine = make_engine(folder)
    before = weights_of(engine)
    report = engine.update(OfLogprobs(SAMPLES, lambda logprobs: logprobs.sum() * float("nan")))
    assert report.skipped
    assert torch.equal(weights_of(engine), before)
    assert not engine.update(NLL).skipped


def test_gradients_are_clipped_but_reported_whole(folder):
    engine = make_engine(folder, max_grad_norm=1e-3)
    assert engine.update(NLL).grad_norm > 0.1


def test_a_resumed_engine_goes_on_bit_for_bit(folder):
    whole = make_engine(folder, schedule="cosine")
    for _ in range(2):
        whole.update(NLL)
    policy = {name: tensor.clone() for name, tensor in whole.weights().items()}
    optimizer = whole.optimizer_state()
    resumed = make_engine(folder, schedule="cosine")
    resumed.load(policy, optimizer)
    reports = [engine.update(NLL) for engine in (whole, resumed)]
    assert reports[0] == reports[1]
    assert torch.equal(weights_of(whole), weights_of(resumed))


def test_a_tied_head_is_published_once(folder):
    weights = make_engine(folder).weights()
    assert "model.embed_tokens.weight" in weights
    assert "lm_head.weight" not in weights


def scored(*totals, reference=None):
    return ScoredGroup(
        group=make_group(size=len(totals)), rewards=make_rewards(*totals), reference_logprobs=reference
    )


def batch_of(*groups, config):
    return training_batch(groups, step_advantages(groups, config).per_group, config)


def test_a_failed_reward_takes_its_completion_out_of_the_batch():
    batch = batch_of(scored(0.0, None, 2.0), config=GRPOConfig(advantage="group_mean"))
    assert [len(sample.completions) for sample in batch.samples] == [2]
    assert batch.samples[0].advantages == [[-1, -1], [1, 1]]  # two tokens each


def two_terms(answers, *, index=0, reference=None):
    """A group whose format term is all ones, and whose answer term is as given."""
    terms = {"format": (1.0,) * len(answers), "answer": tuple(answers)}
    rewards = make_rewards(*(1 + answer for answer in answers), terms=terms)
    group = make_group(make_prompt(index), size=len(answers))
    return ScoredGroup(group=group, rewards=rewards, reference_logprobs=reference)


def test_gdpo_is_normalised_over_the_step_whatever_the_number_of_updates():
    groups = [two_terms([0.0, 1.0, 2.0]), two_terms([0.1, 0.4, 0.1])]
    config = GRPOConfig(advantage="gdpo", groups_per_step=2, updates_per_step=2)
    advantages = torch.cat(list(step_advantages(groups, config).per_group))
    assert float(advantages.std()) == pytest.approx(1)
    assert float(advantages.mean()) == pytest.approx(0, abs=1e-12)


def test_every_update_of_a_step_trains_on_the_advantages_of_the_whole_step(folder):
    """Each group has the deviation 1 for itself, and the six together that of (2 + 2) / 5: so much steeper."""
    groups = [two_terms([0.0, 1.0, 2.0]), two_terms([0.1, 0.4, 0.1])]

    def steepest(trained, **settings):
        config = GRPOConfig(groups_per_step=len(trained), kl_coef=0.0, max_staleness=0, **settings)
        return grpo_step(make_engine(folder, learning_rate=1e-9), trained, config)["policy/grad_norm"]

    alone = max(steepest([group], advantage="group_std") for group in groups)
    together = steepest(groups, advantage="gdpo", updates_per_step=2)
    assert together == pytest.approx(alone * (5 / 4) ** 0.5, rel=1e-3)


@pytest.mark.parametrize("kind", ["group_std", "group_mean", "rloo", "gdpo"])
def test_a_step_tells_each_terms_share_in_the_advantages(folder, kind):
    config = GRPOConfig(groups_per_step=1, kl_coef=0.0, max_staleness=0, advantage=kind)
    metrics = grpo_step(make_engine(folder), [two_terms([0.0, 1.0])], config)
    assert metrics["reward/format/advantage_share"] == 0
    assert metrics["reward/answer/advantage_share"] == 1


def test_k1_in_reward_draws_the_policy_to_the_reference_and_micro_batches_change_nothing(folder):
    group = two_terms([0.5, 0.5])
    sample = Sample(group.group.prompt.token_ids, [c.token_ids for c in group.group.completions])
    sampled = make_engine(folder).logprobs([sample], temperature=1.0)
    completions = tuple(
        replace(c, rollout_logprobs=tuple(sampled[2 * i : 2 * i + 2].tolist()))
        for i, c in enumerate(group.group.completions)
    )
    reference = sampled + torch.tensor([1.0, 0.0, -1.0, 0.0])  # the first completion is likelier there
    group = replace(
        group, group=replace(group.group, completions=completions), reference_logprobs=reference.numpy()
    )
    config = GRPOConfig(
        groups_per_step=1, max_staleness=0, kl_coef=1.0, kl_estimator="k1_in_reward", keep_groups="all"
    )
    changes = []
    for tokens in (4096, 5):
        engine = make_engine(folder, microbatch_tokens=tokens)
        metrics = grpo_step(engine, [group], config)
        changes.append(engine.logprobs([sample], temperature=1.0) - sampled)
        assert metrics["policy/kl_reference"] > 0
        # -1 and 1 nats to go, less the sibling's: the advantages 2 and -2 cancel out, and nothing else is in the loss
        assert metrics["policy/loss"] == pytest.approx(0, abs=1e-5)
    assert changes[0][0] > 0 > changes[0][2]
    assert torch.allclose(changes[0], changes[1], atol=1e-5)


def test_truncated_completions_are_masked_when_the_run_file_says_so():
    group = make_group(make_prompt(), size=2)
    cut = make_completion(5, 6, finish="length")
    group = type(group)(prompt=group.prompt, completions=(group.completions[0], cut), admitted=group.admitted)
    one = ScoredGroup(group=group, rewards=make_rewards(0.0, 1.0), reference_logprobs=None)
    masked, trained = (batch_of(one, config=GRPOConfig(truncated=how)) for how in ("mask", "train"))
    assert masked.samples[0].loss_mask == [[True, True], [False, False]]
    assert trained.samples[0].loss_mask == [[True, True], [True, True]]


def test_a_grpo_step_makes_good_completions_likelier_than_bad_ones(folder):
    engine = make_engine(folder)
    group = scored(0.0, 1.0)
    sample = Sample(group.group.prompt.token_ids, [c.token_ids for c in group.group.completions])
    before = engine.logprobs([sample], temperature=1.0)
    config = GRPOConfig(groups_per_step=1, kl_coef=0.0, max_staleness=0, num_steps=1)
    metrics = grpo_step(engine, [group], config)
    change = engine.logprobs([sample], temperature=1.0) - before  # [bad, end, good, end]
    assert change[2] > change[0]
    assert metrics["policy/skipped_updates"] == 0


def test_clipped_tokens_are_told_by_quarter_of_length(folder):
    engine = make_engine(folder)
    likely = [replace(make_completion(*range(3, 3 + n)), rollout_logprobs=(0.0,) * n) for n in (1, 2, 3)]
    unlikely = replace(
        make_completion(*range(3, 11)), rollout_logprobs=(-99.0,) * 8
    )  # ratios far above the cap
    group = RolloutGroup(prompt=make_prompt(), completions=(unlikely, *likely), admitted=PolicyVersion(1, 0))
    config = GRPOConfig(groups_per_step=1, kl_coef=0.0, loss="tis")
    one = ScoredGroup(group=group, rewards=make_rewards(0.0, 1.0, 1.0, 1.0), reference_logprobs=None)
    metrics = grpo_step(engine, [one], config)
    assert [metrics[f"policy/clip_fraction/quarter_{n}"] for n in (1, 2, 3, 4)] == [0, 0, 0, 1]
    assert metrics["policy/clip_fraction"] == pytest.approx(8 / 14)


def test_staleness_counts_tokens_by_their_version_and_groups_by_admission():
    group = make_group(version=PolicyVersion(1, 3))
    assert staleness_metrics([group], PolicyVersion(1, 4)) == {
        "staleness/token_mean": 1.0,
        "staleness/token_mean/quarter_1": 1.0,  # both completions are as long
        "staleness/max": 1.0,
    }


def test_staleness_by_quarter_of_length_shows_that_long_completions_are_older():
    old, new = PolicyVersion(1, 1), PolicyVersion(1, 2)
    short = [replace(make_completion(*range(n)), version_spans=(VersionSpan(new, 0, n),)) for n in (1, 2, 3)]
    long = replace(make_completion(*range(8)), version_spans=(VersionSpan(old, 0, 6), VersionSpan(new, 6, 8)))
    group = RolloutGroup(prompt=make_prompt(), completions=(long, *short), admitted=old)
    assert staleness_metrics([group], new) == {
        "staleness/token_mean": pytest.approx(6 / 14),
        "staleness/token_mean/quarter_1": 0.0,
        "staleness/token_mean/quarter_2": 0.0,
        "staleness/token_mean/quarter_3": 0.0,
        "staleness/token_mean/quarter_4": 6 / 8,
        "staleness/max": 1.0,
    }


def test_updates_that_stay_not_finite_end_the_run_by_name(folder):
    engine = make_engine(folder)
    group = scored(0.0, float("inf"))
    config = GRPOConfig(groups_per_step=1, kl_coef=0.0, advantage="group_mean", max_skipped_updates=2)
    assert grpo_step(engine, [group], config)["policy/skipped_updates"] == 1
    with pytest.raises(TrainingError, match="2 updates in a row"):
        grpo_step(engine, [group], config)


def test_a_model_whose_attention_has_a_window_gets_the_packed_layout(folder, tmp_path, caplog):
    shutil.copytree(folder, tmp_path / "windowed")
    path = tmp_path / "windowed" / "config.json"
    config = json.loads(path.read_text()) | {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
    path.write_text(json.dumps(config | {"sliding_window": 4096}))
    assert PolicyModel(str(path.parent), dtype="float32", layout="shared_prompt").layout == "packed"
    assert "MistralForCausalLM is computed in the layout packed: shared_prompt with" in caplog.text

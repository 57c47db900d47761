"""One GRPO step on the trainer: groups and their rewards in, updates and metrics out."""

from collections.abc import Sequence

import torch

from rl_empathy.config.sections import GRPOConfig
from rl_empathy.engines.grpo_batch import ScoredGroup, length_quarters, step_advantages, training_batch
from rl_empathy.engines.objectives.grpo import GRPO, LARGEST_RATIO
from rl_empathy.engines.ranks import from_every_rank
from rl_empathy.engines.training import TrainingEngine, UpdateReport
from rl_empathy.errors import TrainingError
from rl_empathy.types import Completion, PolicyVersion, RolloutGroup


def grpo_step(engine: TrainingEngine, groups: Sequence[ScoredGroup], config: GRPOConfig) -> dict[str, float]:
    """Make the optimizer updates of one step.

    Args:
        engine: The policy trainer's engine.
        groups: Taken for this step.
        config: Section grpo.

    Returns:
        Metrics by name, without time and ledger.

    Raises:
        TrainingError: Loss or gradient was not finite too often in a row.
    """
    size = len(groups) // config.updates_per_step
    device = engine.model.language_model.device
    advantages = step_advantages(groups, config)
    parts = [
        training_batch(groups[i : i + size], advantages.per_group[i : i + size], config).to(device)
        for i in range(0, len(groups), size)
    ]
    start_logprobs = (
        [engine.logprobs(part.samples, temperature=config.sampling.temperature) for part in parts]
        if config.updates_per_step > 1
        else [None]
    )
    sums: dict[str, float] = {}
    reports = [
        engine.update(GRPO(part, start, config, sums))
        for part, start in zip(parts, start_logprobs, strict=True)
    ]
    if engine.skipped_in_a_row >= config.max_skipped_updates:
        raise TrainingError(
            f"loss or gradient was not finite in {engine.skipped_in_a_row} updates in a row "
            "(grpo.max_skipped_updates); lower grpo.optimizer.learning_rate, or look at rollouts/ for what was trained"
        )
    shares = {f"reward/{name}/advantage_share": share for name, share in advantages.shares.items()}
    return _metrics(reports, _over_ranks(sums)) | shares


def staleness_metrics(groups: Sequence[RolloutGroup], trained: PolicyVersion) -> dict[str, float]:
    """Versions between the one being trained and the ones that wrote; a group counts from its admission.

    Args:
        groups: Trained in this step.
        trained: The version that the trainer held when the step began.

    Returns:
        `staleness/token_mean`, the same by quarter of length, and `staleness/max`, versions.
    """
    completions = [completion for group in groups for completion in group.completions]
    lengths = torch.tensor([len(completion.token_ids) for completion in completions])
    lags = torch.tensor([_lag(completion, trained) for completion in completions])
    quarters = length_quarters(lengths)
    oldest = min(group.admitted.number for group in groups)
    return {
        "staleness/token_mean": float(lags.sum()) / max(1, int(lengths.sum())),
        **_by_quarter(
            "staleness/token_mean",
            torch.bincount(quarters, lags, minlength=4).tolist(),
            torch.bincount(quarters, lengths, minlength=4).tolist(),
        ),
        "staleness/max": float(trained.number - oldest),
    }


def _lag(completion: Completion, trained: PolicyVersion) -> int:
    """Versions between the one being trained and those that wrote, summed over the tokens."""
    return sum((trained.number - s.version.number) * (s.end - s.start) for s in completion.version_spans)


def _by_quarter(name: str, sums: Sequence[float], tokens: Sequence[float]) -> dict[str, float]:
    """Means over the tokens of each quarter of length; a quarter without tokens has none."""
    return {
        f"{name}/quarter_{number}": total / count
        for number, (total, count) in enumerate(zip(sums, tokens, strict=True), start=1)
        if count
    }


def _over_ranks(sums: dict[str, float]) -> dict[str, float]:
    """What every rank has summed over its share, as one; a rank that had nothing to train has no sums."""
    parts = from_every_rank(sums)
    names = {name: None for part in parts for name in part}
    return {
        name: (max if name == LARGEST_RATIO else sum)([part[name] for part in parts if name in part])
        for name in names
    }


def _metrics(reports: Sequence[UpdateReport], sums: dict[str, float]) -> dict[str, float]:
    tokens = max(1.0, sums["tokens"])
    metrics = {
        "policy/loss": sum(r.loss for r in reports) / len(reports),
        "policy/grad_norm": max(r.grad_norm for r in reports),
        "policy/learning_rate": reports[-1].learning_rate,
        "policy/skipped_updates": float(sum(r.skipped for r in reports)),
        "policy/clip_fraction": sums["clipped"] / tokens,
        **_by_quarter(
            "policy/clip_fraction",
            [sums[f"clipped {number}"] for number in range(4)],
            [sums[f"tokens {number}"] for number in range(4)],
        ),
        "policy/importance_ratio_mean": sums["ratio"] / tokens,
        "policy/importance_ratio_max": sums[LARGEST_RATIO],
        "policy/entropy": sums["entropy"] / tokens,
        "policy/rollout_kl": sums["rollout_kl"] / tokens,
    }
    if "kl_reference" in sums:
        metrics["policy/kl_reference"] = sums["kl_reference"] / tokens
    if "kl_capped" in sums:
        metrics["policy/kl_capped_fraction"] = sums["kl_capped"] / tokens
    return metrics

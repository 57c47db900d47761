"""What one update of GRPO trains: groups with their advantages, flattened to tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from rl_empathy.algorithms.advantages import advantage_shares, batch_scale, group_contributions
from rl_empathy.algorithms.kl import k1_to_go, siblings_mean
from rl_empathy.config.sections import GRPOConfig
from rl_empathy.engines.shared_prompt import Sample
from rl_empathy.types import Completion, GroupRewards, RolloutGroup


@dataclass(frozen=True, kw_only=True)
class ScoredGroup:
    """A group as the trainer gets it."""

    group: RolloutGroup
    rewards: GroupRewards
    reference_logprobs: np.ndarray | None
    """[completion tokens of the whole group] nats; None without a KL term."""

    @property
    def kept(self) -> list[int]:
        """Indices of the completions whose reward did not fail."""
        return [i for i, total in enumerate(self.rewards.totals) if total is not None]


@dataclass(frozen=True, kw_only=True)
class TrainingBatch:
    """Groups flattened: everything but `samples` is aligned with the tokens of their completions, in order."""

    samples: list[Sample]
    """With the advantage of every token, and whether it is trained."""
    rollout_logprobs: Tensor
    """[predicted] nats"""
    reference_logprobs: Tensor | None
    """[predicted] nats"""
    kl_baseline: Tensor | None
    """[predicted] nats; for `k1_in_reward`: what the siblings' KL at the same place is on average"""
    length_quarter: Tensor
    """[predicted] int, see `length_quarters`"""

    def to(self, device: torch.device) -> Self:
        """The same on another device; samples are no tensors."""
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)  # type: ignore[arg-type]

    @property
    def num_trained_tokens(self) -> int:
        return sum(sample.num_trained_tokens for sample in self.samples)


@dataclass(frozen=True, kw_only=True)
class Advantages:
    """The advantages of every group of a step."""

    per_group: Sequence[Tensor]
    """[valid completions] of each group"""
    shares: Mapping[str, float]
    """How large each reward term's part in them is; sums to one."""


def step_advantages(groups: Sequence[ScoredGroup], config: GRPOConfig) -> Advantages:
    """Set the advantages of all groups of a step; `gdpo` is normalised over all of them.

    That batch is the whole step, whatever the number of ranks and of updates a step: every rank has every group.

    Args:
        groups: Groups of the step.
        config: Section grpo.
    """
    terms = list(groups[0].rewards.terms)
    weights = torch.tensor([groups[0].rewards.weights[name] for name in terms], dtype=torch.float64)
    contributions = [
        group_contributions(_valid_scores(scored, terms), weights, kind=config.advantage) for scored in groups
    ]
    if config.advantage == "gdpo":
        scale = batch_scale(contributions)
        contributions = [scale * group for group in contributions]
    shares = advantage_shares(contributions).tolist()
    return Advantages(
        per_group=[group.sum(dim=0) for group in contributions],
        shares=dict(zip(terms, shares, strict=True)),
    )


def _valid_scores(scored: ScoredGroup, terms: Sequence[str]) -> Tensor:
    """[terms, valid completions]."""
    return torch.tensor(
        [[scored.rewards.terms[name][i] for i in scored.kept] for name in terms], dtype=torch.float64
    )


def training_batch(
    groups: Sequence[ScoredGroup], advantages: Sequence[Tensor], config: GRPOConfig
) -> TrainingBatch:
    """Leave out completions whose reward failed, and flatten.

    Args:
        groups: Trained in one update.
        advantages: [valid completions] of each group.
        config: Section grpo.
    """
    kept = [[scored.group.completions[i] for i in scored.kept] for scored in groups]
    completions = [completion for group in kept for completion in group]
    lengths = torch.tensor([len(completion.token_ids) for completion in completions])
    rollout = [torch.tensor([x for c in group for x in c.rollout_logprobs]) for group in kept]
    reference = [_reference_of(scored) for scored in groups if scored.reference_logprobs is not None]
    in_reward = config.kl_estimator == "k1_in_reward" and bool(reference)
    return TrainingBatch(
        samples=[
            _sample(scored.group.prompt.token_ids, group, values, config)
            for scored, group, values in zip(groups, kept, advantages, strict=True)
        ],
        rollout_logprobs=torch.cat(rollout),
        reference_logprobs=torch.cat(reference) if reference else None,
        kl_baseline=torch.cat([*map(_kl_baseline, kept, rollout, reference)]) if in_reward else None,
        length_quarter=length_quarters(lengths).repeat_interleave(lengths),
    )


def _sample(
    prompt: Sequence[int], completions: Sequence[Completion], advantages: Tensor, config: GRPOConfig
) -> Sample:
    """A group with the advantage of a completion at each of its tokens."""
    return Sample(
        prompt,
        [c.token_ids for c in completions],
        loss_mask=[[_is_trained(c, config)] * len(c.token_ids) for c in completions],
        advantages=[
            [value] * len(c.token_ids) for c, value in zip(completions, advantages.tolist(), strict=True)
        ],
    )


def _kl_baseline(completions: Sequence[Completion], rollout: Tensor, reference: Tensor) -> Tensor:
    """From the rollout worker's log-probs, which are known before the first forward pass."""
    lengths = torch.tensor([len(completion.token_ids) for completion in completions])
    index = torch.arange(len(completions)).repeat_interleave(lengths)
    return siblings_mean(k1_to_go(rollout, reference, index), lengths)


def length_quarters(lengths: Tensor) -> Tensor:
    """Which quarter of the completions each one is in by its length: 0 the shortest, 3 the longest.

    Completions as long as the edge of a quarter are in the shorter one, so that of equal lengths all are in one.

    Args:
        lengths: [completions] tokens.

    Returns:
        [completions] int.
    """
    edges = torch.quantile(lengths.double(), torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    return torch.bucketize(lengths, edges)


def _is_trained(completion: Completion, config: GRPOConfig) -> bool:
    return config.truncated == "train" or completion.finish_reason == "stop"


def _reference_of(scored: ScoredGroup) -> Tensor:
    """[tokens of the valid completions] reference log-probs."""
    pieces = torch.tensor(scored.reference_logprobs).split(
        [len(c.token_ids) for c in scored.group.completions]
    )
    return torch.cat([pieces[i] for i in scored.kept])

"""GRPO: the clipped surrogate, weighted for what older weights wrote, and a KL term; what it did, in sums."""

from collections.abc import Sequence

from torch import Tensor

from rl_empathy.algorithms.corrections import (
    Weights,
    decoupled_weights,
    mask_weights,
    no_weights,
    sequence_mask_weights,
    tis_weights,
)
from rl_empathy.algorithms.kl import RATIO_CAP, k1_to_go, k3_plain, kl_estimate
from rl_empathy.algorithms.losses import PolicyLoss, policy_loss
from rl_empathy.algorithms.masking import masked_sum
from rl_empathy.config.sections import GRPOConfig
from rl_empathy.engines.grpo_batch import TrainingBatch
from rl_empathy.engines.objectives.objective import Outputs
from rl_empathy.engines.shared_prompt import Sample

LARGEST_RATIO = "largest ratio"
"""The one quantity of a step that is no sum over its tokens."""


class GRPO:
    """One update of a step; see `algorithms.losses.policy_loss`."""

    def __init__(
        self, batch: TrainingBatch, start: Tensor | None, config: GRPOConfig, sums: dict[str, float]
    ) -> None:
        """Nothing is trained yet.

        Args:
            batch: What is trained.
            start: [predicted] log-probs at the start of the step; None where this is its only update.
            config: Section grpo.
            sums: What the metrics are made of, summed over the tokens of the step; this update adds to them.
        """
        self._batch, self._start, self._config, self._sums = batch, start, config, sums
        self._count = max(1, batch.num_trained_tokens)

    @property
    def samples(self) -> Sequence[Sample]:
        return self._batch.samples

    @property
    def temperature(self) -> float:
        return self._config.sampling.temperature

    def loss(self, outputs: Outputs, part: slice) -> Tensor:
        config, mask, now = self._config, outputs.loss_mask, outputs.logprobs.detach()
        rollout = self._batch.rollout_logprobs[part]
        started = now if self._start is None else self._start[part]
        surrogate = policy_loss(
            outputs.logprobs,
            rollout if config.correction == "clip" else started,
            _weights(started, rollout, outputs.completion_index, mask, config),
            self._advantages(outputs, started, part),
            mask,
            clip_low=config.clip_low,
            clip_high=config.clip_high,
            num_tokens=self._count,
        )
        ratios = decoupled_weights(now, rollout).values.masked_fill(~mask, 0.0)
        self._count_tokens(surrogate, ratios, mask, part)
        self._add("entropy", masked_sum(outputs.entropies, mask))
        self._add("rollout_kl", masked_sum(k3_plain(rollout, now), mask))
        if self._batch.reference_logprobs is None:
            return surrogate.loss
        reference = self._batch.reference_logprobs[part]
        self._add("kl_reference", masked_sum(k3_plain(now, reference), mask))
        if config.kl_estimator == "k1_in_reward":
            return surrogate.loss
        self._add("kl_capped", (ratios > RATIO_CAP).sum() if config.kl_estimator == "k3_ratio" else 0.0)
        kl = kl_estimate(outputs.logprobs, reference, rollout, estimator=config.kl_estimator)
        return surrogate.loss + config.kl_coef * masked_sum(kl, mask) / self._count

    def _advantages(self, outputs: Outputs, started: Tensor, part: slice) -> Tensor:
        """[predicted] of a micro-batch, which holds whole completions; `k1_in_reward` takes the KL from them."""
        batch = self._batch
        if batch.kl_baseline is None or batch.reference_logprobs is None:
            return outputs.advantages
        index = outputs.completion_index
        charged = k1_to_go(started, batch.reference_logprobs[part], index) - batch.kl_baseline[part]
        return outputs.advantages - self._config.kl_coef * charged

    def _count_tokens(self, surrogate: PolicyLoss, ratios: Tensor, mask: Tensor, part: slice) -> None:
        quarter = self._batch.length_quarter[part]
        self._add("tokens", mask.sum())
        self._add("clipped", surrogate.clipped.sum())
        for number in range(4):
            self._add(f"tokens {number}", (mask & (quarter == number)).sum())
            self._add(f"clipped {number}", (surrogate.clipped & (quarter == number)).sum())
        self._add("ratio", ratios.sum())
        largest = float(ratios.max()) if len(ratios) else 0.0
        self._sums[LARGEST_RATIO] = max(self._sums.get(LARGEST_RATIO, 0.0), largest)

    def _add(self, name: str, value: Tensor | float) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + float(value)


def _weights(
    start_logprobs: Tensor,
    rollout_logprobs: Tensor,
    completion_index: Tensor,
    loss_mask: Tensor,
    config: GRPOConfig,
) -> Weights:
    """Dispatch by the name of the correction; all tensors [tokens]."""
    bounds = {"low": config.mask_low, "high": config.mask_high}
    match config.correction:
        case "clip":
            return no_weights(start_logprobs)
        case "decoupled":
            return decoupled_weights(start_logprobs, rollout_logprobs)
        case "tis":
            return tis_weights(start_logprobs, rollout_logprobs, cap=config.tis_cap)
        case "mask":
            return mask_weights(start_logprobs, rollout_logprobs, **bounds)
        case "sequence_mask":
            return sequence_mask_weights(
                start_logprobs, rollout_logprobs, completion_index, loss_mask, cap=config.tis_cap, **bounds
            )

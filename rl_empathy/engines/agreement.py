"""Do vLLM and the trainer compute the same model? Looked at with the first tokens that come."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rl_empathy.engines.language_models import architecture
from rl_empathy.engines.shared_prompt import Sample
from rl_empathy.engines.training import TrainingEngine
from rl_empathy.errors import ModelError
from rl_empathy.types import PolicyVersion, RolloutGroup

LARGEST_MEAN = 0.01
"""Mean difference of log-probs in float32 that counts as rounding, nats; a piece that one leaves out makes more."""
BFLOAT16_FACTOR = 3.0
"""How many times the trainer's own mean error in bfloat16 counts as rounding, on top of the floor."""
BFLOAT16_FLOOR = 0.02
"""Mean difference in bfloat16 that always counts as rounding, nats."""
COMPLETIONS = 2
"""Compared at a time."""


def compare_with_vllm(
    engine: TrainingEngine, groups: Sequence[RolloutGroup], held: PolicyVersion, *, temperature: float
) -> bool:
    """Compare log-probs of completions that were written from end to end under the weights that the trainer holds.

    Args:
        engine: The trainer's; every rank makes the call.
        groups: Taken for a step.
        held: The version that the trainer holds.
        temperature: As in sampling.

    Returns:
        Whether there were such completions.

    Raises:
        ModelError: vLLM's log-probs are not the trainer's.
    """
    for group in groups:
        fresh = [c for c in group.completions if {s.version for s in c.version_spans} == {held}][:COMPLETIONS]
        if fresh and group.admitted == held:
            sample = Sample(group.prompt.token_ids, [c.token_ids for c in fresh])
            sampled = torch.tensor([logprob for c in fresh for logprob in c.rollout_logprobs])
            computed = engine.logprobs([sample], temperature=temperature).cpu()
            difference = (computed - sampled).abs()
            if not difference.mean() <= _largest_mean(engine, sample, computed, temperature):
                raise ModelError(
                    f"vLLM and the trainer disagree about {architecture(engine.model.language_model)}: of tokens that "
                    f"policy version {held} wrote, log-probs differ by {difference.mean():.1e} nats in the mean and by "
                    f"{difference.max():.1e} at most; this architecture cannot be trained with stage grpo"
                )
            return True
    return False


def _largest_mean(engine: TrainingEngine, sample: Sample, computed: Tensor, temperature: float) -> float:
    """What counts as rounding: in bfloat16 it depends on the model, and the trainer's own says how much it is."""
    if engine.model.dtype == "float32":
        return LARGEST_MEAN
    with engine.model.computing_in("float32"):
        exact = engine.logprobs([sample], temperature=temperature).cpu()
    return BFLOAT16_FLOOR + BFLOAT16_FACTOR * (computed - exact).abs().mean().item()

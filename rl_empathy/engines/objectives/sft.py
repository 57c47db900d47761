"""Supervised fine-tuning, and language modelling: the completions' tokens become likelier."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from rl_empathy.algorithms.losses import sft_loss
from rl_empathy.engines.objectives.objective import Outputs
from rl_empathy.engines.shared_prompt import Sample


@dataclass(frozen=True)
class Likelihood:
    """Mean negative log-likelihood of the trained tokens; see `algorithms.losses.sft_loss`."""

    samples: Sequence[Sample]
    temperature: float = field(default=1.0, init=False)

    @cached_property
    def num_tokens(self) -> int:
        """Trained tokens of the update."""
        return sum(sample.num_trained_tokens for sample in self.samples)

    def loss(self, outputs: Outputs, part: slice) -> Tensor:
        return sft_loss(outputs.logprobs, outputs.loss_mask, num_tokens=self.num_tokens)

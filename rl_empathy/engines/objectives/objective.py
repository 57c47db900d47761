"""The seam between the training engine and what it trains for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from rl_empathy.engines.shared_prompt import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What the model says of the tokens of a micro-batch, in order of samples, completions, tokens."""

    logprobs: Tensor
    """[predicted] nats, with a gradient."""
    entropies: Tensor
    """[predicted] nats, of the whole distribution."""
    loss_mask: Tensor
    """[predicted] bool, as the samples say."""
    advantages: Tensor
    """[predicted] as the samples say."""
    completion_index: Tensor
    """[predicted] int, which completion of the micro-batch a token belongs to."""


class Objective(Protocol):
    """The samples of one update and their loss. One object serves one update.

    An objective that counts something keeps it: the engine calls `loss` once for each micro-batch of this rank.
    """

    @property
    def samples(self) -> Sequence[Sample]:
        """What is trained, the same on every rank."""

    @property
    def temperature(self) -> float:
        """As in sampling."""

    def loss(self, outputs: Outputs, part: slice) -> Tensor:
        """[] loss of a micro-batch, normalised by a count over the whole update, so that micro-batches may be summed.

        Args:
            outputs: What the model says of the micro-batch, which holds whole completions, and indivisible samples
                whole.
            part: The micro-batch's place among all predicted tokens of the update.
        """

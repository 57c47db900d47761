"""An objective in a line, for tests of what trains it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from rl_empathy.engines.objectives.objective import Outputs
from rl_empathy.engines.shared_prompt import Sample


@dataclass(frozen=True)
class OfLogprobs:
    """A loss that only log-probs decide."""

    samples: Sequence[Sample]
    function: Callable[[Tensor], Tensor]
    """[predicted] log-probs -> [] loss."""
    temperature: float = 1.0

    def loss(self, outputs: Outputs, part: slice) -> Tensor:
        return self.function(outputs.logprobs)

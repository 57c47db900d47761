"""The seam between publishing and the way that weights take."""

from typing import Protocol

from rl_empathy.orchestration.fleet import PolicyTrainerHandle
from rl_empathy.orchestration.fleet.loads import Offer


class WeightChannel(Protocol):
    """A way for weights."""

    async def offer(self, trainer: PolicyTrainerHandle) -> Offer:
        """Take the weights that a trainer holds, so that it may go on.

        Raises:
            TrainerLostError: The trainer is gone.
        """

"""The reference model: frozen log-probs with a mailbox."""

import numpy as np

from rl_empathy.engines.reference import ReferenceEngine
from rl_empathy.engines.shared_prompt import Layout, Sample
from rl_empathy.observability.memory import own_pulse
from rl_empathy.observability.role_log import divert_output
from rl_empathy.types import Pulse, RolloutGroup


class ReferenceModel:
    """The policy as it was before reinforcement learning."""

    def __init__(
        self, model_path: str, log: str, *, dtype: str, layout: Layout, microbatch_tokens: int
    ) -> None:
        divert_output(log)
        self._engine = ReferenceEngine(
            model_path, dtype=dtype, layout=layout, microbatch_tokens=microbatch_tokens
        )

    def ready(self) -> Pulse:
        """Answer once the model is loaded: the node it runs on."""
        return own_pulse()

    def logprobs(self, group: RolloutGroup, temperature: float) -> tuple[None, np.ndarray]:
        """A header (nothing) for the driver, and the log-probs of all completion tokens, in order, nats."""
        sample = Sample(group.prompt.token_ids, [c.token_ids for c in group.completions])
        return None, self._engine.logprobs(sample, temperature=temperature).float().cpu().numpy()

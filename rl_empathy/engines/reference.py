"""Log-probs under a frozen model."""

import torch
from torch import Tensor

from rl_empathy.engines.microbatches import split_by_tokens
from rl_empathy.engines.policy_model import PolicyModel
from rl_empathy.engines.shared_prompt import Layout, Sample


class ReferenceEngine:
    """The starting policy, kept as it was."""

    def __init__(self, model_path: str, *, dtype: str, layout: Layout, microbatch_tokens: int) -> None:
        self._model = PolicyModel(model_path, dtype=dtype, layout=layout, frozen=True)
        self._model.eval().requires_grad_(False)
        self._model.to("cuda" if torch.cuda.is_available() else "cpu")
        self._microbatch_tokens = microbatch_tokens

    def logprobs(self, sample: Sample, *, temperature: float) -> Tensor:
        """Log-probs of the completions' tokens.

        Args:
            sample: A prompt with its completions.
            temperature: As in sampling.

        Returns:
            [predicted] log-probs in order of completions, then tokens, nats.
        """
        batches = split_by_tokens([sample], max_tokens=self._microbatch_tokens, layout=self._model.layout)
        with torch.no_grad():
            rows = [row for batch in batches for row in self._model.rows(batch)]
            parts = [self._model(row, temperature=temperature)[0] for row in rows]
        return torch.cat(parts)

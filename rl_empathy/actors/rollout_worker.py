"""The rollout worker: a generation engine with a mailbox."""

import time
from pathlib import Path

from rl_empathy.actors.termination import TerminationNotice
from rl_empathy.config.sections import SamplingConfig
from rl_empathy.engines.generation import GenerationEngine
from rl_empathy.engines.weight_arrays import PublishedWeights
from rl_empathy.errors import WeightSyncError
from rl_empathy.observability.memory import own_pulse
from rl_empathy.observability.role_log import divert_output
from rl_empathy.types import GroupHeader, PolicyVersion, Prompt, Pulse, RolloutGroup


class RolloutWorker:
    """Samples groups; takes new weights in between."""

    def __init__(
        self,
        name: str,
        model_path: str,
        log: str,
        *,
        dtype: str,
        max_model_tokens: int,
        max_running_sequences: int,
        kv_cache_mib: int,
        seed: int,
        synchronous: bool,
        deterministic: bool,
    ) -> None:
        divert_output(log)
        self._name = name
        self._last_load = 0
        self._engine = GenerationEngine(
            model_path,
            dtype=dtype,
            max_model_tokens=max_model_tokens,
            max_running_sequences=max_running_sequences,
            kv_cache_mib=kv_cache_mib,
            seed=seed,
            prefix_caching=not deterministic,
            clear_cache_on_load=synchronous,
        )
        # Deterministic runs end with a worker, and go on with the same command: nothing could take its place.
        self._notice = None if deterministic else TerminationNotice()

    async def ready(self) -> Pulse:
        """Answer once the engine is up, and as long as it does not hang."""
        await self._engine.alive()
        return own_pulse(asked_to_go=self._notice is not None and self._notice.given)

    async def sample(
        self, prompt: Prompt, sampling: SamplingConfig, group_size: int, seed: int, together: int
    ) -> tuple[GroupHeader, RolloutGroup]:
        """Write a group: the header for the driver, and the payload, which stays in the object store."""
        started = time.monotonic()
        group = await self._engine.sample(
            prompt, sampling=sampling, group_size=group_size, seed=seed, together=together
        )
        return GroupHeader.of(group, worker=self._name, sample_s=time.monotonic() - started), group

    async def load_weights(
        self, weights: PublishedWeights, whole: bool, number: int
    ) -> tuple[PolicyVersion, dict[str, float]]:
        """Load a published version: what is held now, the pause it made, and how long the engine has worked.

        Raises:
            WeightSyncError: The load of a higher number came before. Ray begins a call when what it was given has
                come to this node, so that one that its caller has given up may be overtaken.
        """
        if number < self._last_load:
            raise WeightSyncError(
                f"load {number}, of policy version {weights.version}, came after load {self._last_load}"
            )
        self._last_load = number
        pause_s = await self._engine.load_weights(weights, whole=whole)
        stats = self._engine.stats
        return self._engine.version, {
            "pause_s": pause_s,
            "busy_s": stats.busy_s,
        }

    async def load_model(
        self, folder: str, version: PolicyVersion, whole: bool, number: int
    ) -> tuple[PolicyVersion, dict[str, float]]:
        """Load the weights of a model folder of the same architecture; answers as `load_weights`."""
        return await self.load_weights(PublishedWeights.from_folder(Path(folder), version), whole, number)

"""The rollout workers, seen as one."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import ObjectRef

from rl_empathy.config.sections import DeadlinesConfig, SamplingConfig
from rl_empathy.errors import WeightSyncError
from rl_empathy.orchestration.fleet.calls import Role
from rl_empathy.orchestration.fleet.group_handle import GroupHandle
from rl_empathy.types import PolicyVersion, Prompt, RolloutGroup


class RolloutWorkers:
    """All rollout workers seen as one: `sample` goes to one of them, `load_weights` to every one."""

    def __init__(
        self, workers: Sequence[Role], deadlines: DeadlinesConfig, *, seed: int, in_step: bool
    ) -> None:
        """Take the workers over.

        Args:
            workers: The actors.
            deadlines: Of the calls.
            seed: The run's; a request's seed follows from it and the occurrence.
            in_step: Worker = index of the prompt modulo workers, and a worker begins only when its whole share of a
                cohort is there (deterministic runs); otherwise the one with the fewest groups under way is asked.
        """
        self._workers = workers
        self._load = [0] * len(workers)
        self._deadlines = deadlines
        self._seed = seed
        self._in_step = in_step

    def __len__(self) -> int:
        return len(self._workers)

    async def sample(
        self, prompt: Prompt, *, sampling: SamplingConfig, group_size: int, cohort: Sequence[Prompt] = ()
    ) -> GroupHandle:
        """Have a group written; `cohort` holds the prompts that start together with this one."""
        number, together = self._choose(prompt, cohort)
        worker = self._workers[number]
        self._load[number] += 1
        try:
            header, payload = worker.actor.sample.options(num_returns=2).remote(
                prompt, sampling, group_size, self._request_seed(prompt), together
            )
            doing = f"sample the group of prompt {prompt.row.id}"
            return GroupHandle(
                header=await worker.answer(header, seconds=self._deadlines.sample_s, doing=doing),
                payload=payload,
            )
        finally:
            self._load[number] -= 1

    async def load_weights(self, weights: "ObjectRef[Any]", version: PolicyVersion) -> list[dict[str, float]]:
        """Have every worker load a version: pause, busy seconds and tokens of each.

        Raises:
            WeightSyncError: A worker holds another version afterwards.
        """
        reports = await asyncio.gather(
            *(
                worker.answer(
                    worker.actor.load_weights.remote(weights),
                    seconds=self._deadlines.publish_s,
                    doing=f"load policy version {version}",
                )
                for worker in self._workers
            )
        )
        for worker, (held, _) in zip(self._workers, reports, strict=True):
            if held != version:
                raise WeightSyncError(
                    f"{worker} holds version {held} after the publish of {version}: {worker.log}"
                )
        return [stats for _, stats in reports]

    async def load_model(self, folder: Path, version: PolicyVersion) -> None:
        """Have every worker load the weights of a model folder of the same architecture."""
        await asyncio.gather(
            *(
                worker.answer(
                    worker.actor.load_model.remote(str(folder), version),
                    seconds=self._deadlines.publish_s,
                    doing=f"load the model {folder}",
                )
                for worker in self._workers
            )
        )

    async def payload(self, group: GroupHandle) -> RolloutGroup:
        """Fetch a payload into this process, for evaluation."""
        return await self._workers[0].answer(
            group.payload,
            seconds=self._deadlines.sample_s,
            doing=f"hand over the group of {group.header.row_id}",
        )

    def _choose(self, prompt: Prompt, cohort: Sequence[Prompt]) -> tuple[int, int]:
        if not self._in_step:
            return min(range(len(self._workers)), key=self._load.__getitem__), 1
        number = prompt.occurrence.index % len(self._workers)
        return number, sum(p.occurrence.index % len(self._workers) == number for p in cohort)

    def _request_seed(self, prompt: Prompt) -> int:
        return random.Random(f"{self._seed}/{prompt.occurrence}").getrandbits(31)

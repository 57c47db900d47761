"""Actors that sleep in the place of engines: one class a role, without a model."""

import asyncio
import json
import pickle
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rl_empathy.types import (
    Completion,
    GroupHeader,
    GroupRewards,
    PolicyVersion,
    Prompt,
    Pulse,
    Resumed,
    RolloutGroup,
    Updated,
    VersionSpan,
)

from .workload import Lengths


class SleepingWorker:
    """Writes groups of one token by sleeping; several workers may live in one process, told apart by their number."""

    def __init__(self, log: str, *, lengths: Lengths) -> None:
        self._lengths = lengths
        self._versions: dict[int, PolicyVersion] = {}

    async def ready(self) -> Pulse:
        return Pulse(platform.node())

    async def sample(
        self, number: int, prompt: Prompt, sampling: Any, group_size: int, seed: int, together: int
    ) -> tuple[GroupHeader, RolloutGroup]:
        started, admitted = time.monotonic(), self._versions[number]
        await asyncio.sleep(self._lengths.write_s(prompt.occurrence))
        completions = tuple(
            Completion(
                token_ids=(i,),
                rollout_logprobs=(0.0,),
                version_spans=(VersionSpan(self._versions[number], 0, 1),),
                finish_reason="stop",
                text="",
            )
            for i in range(group_size)
        )
        group = RolloutGroup(prompt=prompt, completions=completions, admitted=admitted)
        return GroupHeader.of(group, worker=str(number), sample_s=time.monotonic() - started), group

    async def load_weights(
        self, number: int, weights: PolicyVersion, whole: bool, load_number: int
    ) -> tuple[PolicyVersion, dict[str, float]]:
        self._versions[number] = weights
        return weights, {"pause_s": 0.0, "busy_s": 0.0}


class EqualRewards:
    """Scores at once, with a spread."""

    def __init__(self, log: str) -> None:
        pass

    def ready(self) -> Pulse:
        return Pulse(platform.node())

    def score(self, group: RolloutGroup) -> GroupRewards:
        totals = tuple(float(i) for i in range(len(group.completions)))
        none: tuple[Any, ...] = tuple(() for _ in totals)
        return GroupRewards(
            terms={"format": totals},
            weights={"format": 1.0},
            totals=totals,
            errors=none,
            span_tokens=({},) * len(totals),
        )


class NoLogprobs:
    """A reference model that answers at once."""

    def __init__(self, log: str) -> None:
        pass

    def ready(self) -> Pulse:
        return Pulse(platform.node())

    def logprobs(self, group: RolloutGroup, temperature: float) -> tuple[None, None]:
        return None, None


class SleepingTrainer:
    """Updates by sleeping; a checkpoint is the number of its version, and what the driver gives it."""

    def __init__(self, log: str, *, attempt: int, update_s: float) -> None:
        self._update_s = update_s
        self._version = PolicyVersion(attempt, 0)
        self._checkpoint = Path(log).with_name("checkpoint.pickle")
        self._trained = Path(log).with_name("trained.jsonl")

    def ready(self) -> Pulse:
        return Pulse(platform.node())

    def resume(self) -> tuple[PolicyVersion, Resumed]:
        if not self._checkpoint.exists():
            return self._version, Resumed()
        number, driver, finished = pickle.loads(self._checkpoint.read_bytes())
        self._version = PolicyVersion(self._version.attempt, number)
        return self._version, Resumed(driver=driver, finished=finished)

    def update(
        self,
        rewards: list[GroupRewards],
        has_reference: bool,
        microbatch_tokens: int,
        *payloads: RolloutGroup,
    ) -> Updated:
        time.sleep(self._update_s)
        staleness = [self._version.number - group.admitted.number for group in payloads[: len(rewards)]]
        with self._trained.open("a") as file:
            for group, lag in zip(payloads, staleness, strict=False):
                occurrence = list(group.prompt.occurrence)
                file.write(
                    json.dumps({"occurrence": occurrence, "step": self._version.number + 1, "lag": lag})
                )
                file.write("\n")
        self._version = PolicyVersion(self._version.attempt, self._version.number + 1)
        return Updated(
            metrics={"policy/loss": 0.0, "staleness/max": float(max(staleness))}, busy_s=self._update_s
        )

    def weights(self) -> tuple[None, PolicyVersion]:
        return None, self._version

    def snapshot(self, driver: dict[str, Any], score: float | None, *finished: RolloutGroup) -> None:
        self._snapshot = pickle.dumps((self._version.number, driver, finished))

    def write_snapshot(self) -> None:
        new = self._checkpoint.with_suffix(".new")
        new.write_bytes(self._snapshot)
        new.rename(self._checkpoint)

    def export(self, folder: str) -> None:
        """There are no weights."""


SLEEPERS: Mapping[str, type] = {
    "rollout_worker": SleepingWorker,
    "reward_model": EqualRewards,
    "reference_model": NoLogprobs,
    "policy_trainer": SleepingTrainer,
}

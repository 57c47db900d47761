"""Engines that sleep: every role as a real Ray actor behind the real fleet, without a model. Not a benchmark itself."""

import asyncio
import dataclasses
import logging
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import ray

from rl_empathy.actors.local_ray import start_local_ray
from rl_empathy.config.sections import DeadlinesConfig, GRPOConfig, RestartsConfig
from rl_empathy.data.prompts import PromptStream
from rl_empathy.observability.ledger import Ledger
from rl_empathy.observability.metrics import MetricsLog
from rl_empathy.orchestration.fleet import (
    Fleet,
    NoReferenceModel,
    PolicyTrainerHandle,
    RestartableRole,
    RestartBudget,
    RewardModelHandle,
    RolloutWorkers,
)
from rl_empathy.orchestration.fleet.calls import Resources, Role, start_role
from rl_empathy.orchestration.fleet.ranks import Ranks
from rl_empathy.orchestration.grpo import run_attempts
from rl_empathy.orchestration.stop import StopSignal
from rl_empathy.types import (
    Completion,
    GroupHeader,
    GroupRewards,
    Message,
    Occurrence,
    PolicyVersion,
    Prompt,
    Resumed,
    RolloutGroup,
    Row,
    VersionSpan,
)


def duration_s(occurrence: Occurrence, mean_s: float, sigma: float) -> float:
    """Heavy-tailed (log-normal) time to write the group of an occurrence, the same in every run."""
    return mean_s * random.Random(f"{occurrence}").lognormvariate(-sigma * sigma / 2, sigma)


class SleepingWorker:
    """Writes groups of one token by sleeping; several workers may live in one process, told apart by their number."""

    def __init__(self, log: str, *, mean_s: float, sigma: float) -> None:
        self._mean_s, self._sigma = mean_s, sigma
        self._versions: dict[int, PolicyVersion] = {}

    async def ready(self) -> str:
        return platform.node()

    async def sample(
        self, number: int, prompt: Prompt, sampling: Any, group_size: int, seed: int, together: int
    ) -> tuple[GroupHeader, RolloutGroup]:
        started, admitted = time.monotonic(), self._versions[number]
        await asyncio.sleep(duration_s(prompt.occurrence, self._mean_s, self._sigma))
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
        self, number: int, weights: PolicyVersion, whole: bool
    ) -> tuple[PolicyVersion, dict[str, float]]:
        self._versions[number] = weights
        return weights, {"pause_s": 0.0, "busy_s": 0.0, "generated_tokens": 0.0}


class EqualRewards:
    """Scores at once, with a spread."""

    def __init__(self, log: str) -> None:
        pass

    def ready(self) -> str:
        return platform.node()

    def score(self, group: RolloutGroup) -> GroupRewards:
        totals = tuple(float(i) for i in range(len(group.completions)))
        none: tuple[Any, ...] = tuple(() for _ in totals)
        return GroupRewards(
            terms={"format": totals}, totals=totals, errors=none, span_tokens=({},) * len(totals)
        )


class SleepingTrainer:
    """Updates by sleeping."""

    def __init__(self, log: str, *, update_s: float) -> None:
        self._update_s = update_s
        self._version = PolicyVersion(1, 0)

    def ready(self) -> str:
        return platform.node()

    def resume(self) -> tuple[PolicyVersion, Resumed]:
        return self._version, Resumed()

    def update(
        self, rewards: list[GroupRewards], has_reference: bool, *payloads: RolloutGroup
    ) -> dict[str, float]:
        time.sleep(self._update_s)
        staleness = [self._version.number - group.admitted.number for group in payloads]
        self._version = PolicyVersion(1, self._version.number + 1)
        return {"policy/loss": 0.0, "staleness/max": float(max(staleness))}

    def weights(self) -> tuple[None, PolicyVersion]:
        return None, self._version

    def snapshot(self, driver: dict[str, Any], *finished: RolloutGroup) -> None:
        pass

    def write_snapshot(self) -> None:
        pass


@dataclass(frozen=True)
class NumberedActor:
    """One of several workers that live in one process: every call carries its number."""

    actor: Any
    number: int

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.actor, name)
        return method if name == "ready" else NumberedMethod(method, self.number)


@dataclass(frozen=True)
class NumberedMethod:
    method: Any
    number: int

    def options(self, **options: Any) -> "NumberedMethod":
        return NumberedMethod(self.method.options(**options), self.number)

    def remote(self, *arguments: Any) -> Any:
        return self.method.remote(self.number, *arguments)


@dataclass(kw_only=True)
class SleepingRun:
    """A run of the real loop on engines that sleep."""

    config: GRPOConfig
    workers: int
    processes: int
    mean_s: float
    sigma: float
    update_s: float
    lines: list[dict[str, Any]] = field(default_factory=list)
    """Metrics of every step."""
    each_step: Callable[[], None] = lambda: None
    """Called when a step is done."""

    def run(self, folder: Path) -> float:
        """Run it: seconds from the first step's start to the last step's end."""
        return asyncio.run(self._run(folder))

    async def _run(self, folder: Path) -> float:
        deadlines, budget = DeadlinesConfig(), RestartBudget(RestartsConfig(), print)
        one = {"logs": folder, "deadlines": deadlines}
        resources = Resources(num_cpus=0.001, num_gpus=0)
        hosts = await asyncio.gather(
            *(
                start_role(
                    f"host_{i}",
                    SleepingWorker,
                    resources=dataclasses.replace(resources, max_concurrency=10_000),
                    mean_s=self.mean_s,
                    sigma=self.sigma,
                    **one,
                )
                for i in range(self.processes)
            )
        )
        roles = [
            Role(
                name=f"rollout_worker_{i}",
                actor=NumberedActor(host.actor, i),
                log=host.log,
                node=host.node,
            )
            for i in range(self.workers)
            for host in [hosts[i % self.processes]]
        ]
        trainer = await start_role(
            "policy_trainer", SleepingTrainer, resources=resources, update_s=self.update_s, **one
        )
        rewards = await start_role("reward_model", EqualRewards, resources=resources, **one)

        async def never(*_: str) -> NoReturn:
            raise AssertionError("nothing is restarted here")

        fleet = Fleet(
            trainer=PolicyTrainerHandle(
                Ranks(name="policy_trainer", roles=[trainer]), never, deadlines, budget
            ),
            rollout_workers=RolloutWorkers(roles, never, deadlines, budget, seed=0, in_step=False),
            reward_model=RewardModelHandle(RestartableRole(rewards, never, budget), deadlines),
            reference_model=NoReferenceModel(),
            budget=budget,
        )
        log = MetricsLog(folder / "metrics.jsonl")
        log.add_sink(lambda line: (self.lines.append(dict(line)), self.each_step()))
        row = Row(id="row", messages=(Message(role="user", content="post"),))
        started = time.monotonic()
        await run_attempts(
            self.config,
            fleet,
            PromptStream([(row, [1])] * 4096, seed=0),
            Ledger(folder / "ledger.jsonl"),
            log,
            stop=StopSignal(),
            tell=print,
        )
        seconds = time.monotonic() - started
        for role in (*hosts, trainer, rewards):
            role.kill()
        return seconds


@contextmanager
def local_ray(num_cpus: int) -> Iterator[Path]:
    """Ray on this machine, and a folder for records."""
    start_local_ray(num_cpus, logging_level=logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    finally:
        ray.shutdown()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

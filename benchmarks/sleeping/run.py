"""A run of the real fleet and the real loop, whose actors sleep; and Ray on this machine for it."""

import asyncio
import functools
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from rl_empathy.actors.local_ray import start_local_ray
from rl_empathy.config.sections import DeadlinesConfig, GRPOConfig, RestartsConfig
from rl_empathy.observability.ledger import Ledger
from rl_empathy.observability.metrics import MetricsLog
from rl_empathy.orchestration.fleet import (
    Fleet,
    NoReferenceModel,
    PolicyTrainerHandle,
    ReferenceModelHandle,
    RestartableRole,
    RestartBudget,
    RewardModelHandle,
    RolloutWorkers,
)
from rl_empathy.orchestration.fleet.calls import Resources, Role, start_role
from rl_empathy.orchestration.fleet.ranks import Ranks
from rl_empathy.orchestration.grpo import run_attempts
from rl_empathy.orchestration.stop import StopSignal

from .actors import SLEEPERS
from .shared_process import numbered
from .workload import Lengths, prompt_stream

AT_ONCE = 10_000
"""Groups that a sleeping worker takes at a time: as many as there are."""


@dataclass(kw_only=True)
class SleepingRun:
    """A run of the real loop on engines that sleep."""

    config: GRPOConfig
    workers: int
    processes: int
    """Processes of the workers. Where workers share a process, none of them can be restarted."""
    lengths: Lengths
    update_s: float
    classes: Mapping[str, type] = field(default_factory=lambda: SLEEPERS)
    """The class of each role."""
    deadlines: DeadlinesConfig = field(default_factory=DeadlinesConfig)
    tell: Callable[[str], None] = print
    lines: list[dict[str, Any]] = field(default_factory=list)
    """Metrics of every step."""
    each_step: Callable[[], None] = lambda: None
    """Called when a step is done."""
    attempt: int = 0
    _started: list[Role] = field(default_factory=list)

    def run(self, folder: Path) -> float:
        """Run it: seconds from the first step's start to the last step's end."""
        return asyncio.run(self._run(folder))

    async def _run(self, folder: Path) -> float:
        fleet = await self._start_fleet(folder)
        log = MetricsLog(folder / "metrics.jsonl")
        log.add_sink(self._see)
        await run_attempts(
            self.config,
            fleet,
            prompt_stream(),
            Ledger(folder / "ledger.jsonl"),
            log,
            stop=StopSignal(),
            tell=self.tell,
            export_to=folder / "model",
        )
        for role in self._started:
            role.kill()
        return float(self.lines[-1]["time"] - self.lines[0]["time"] + self.lines[0]["time/step_s"])

    async def _start_fleet(self, folder: Path) -> Fleet:
        budget = RestartBudget(RestartsConfig(), self.tell)

        async def restartable(name: str) -> RestartableRole:
            start = functools.partial(self._start, folder, name, name)
            return RestartableRole(await start(), start, budget, retries=2)

        workers = await self._start_workers(folder, budget)
        rewards = await restartable("reward_model")
        reference = await restartable("reference_model") if self.config.kl_coef else None
        return Fleet(
            trainer=await self._start_trainer(folder, budget),
            rollout_workers=workers,
            reward_model=RewardModelHandle(rewards, self.deadlines),
            reference_model=ReferenceModelHandle(reference, self.config, self.deadlines)
            if reference
            else NoReferenceModel(),
            budget=budget,
        )

    async def _start_workers(self, folder: Path, budget: RestartBudget) -> RolloutWorkers:
        host = functools.partial(self._start, folder, "rollout_worker", lengths=self.lengths)
        hosts = await asyncio.gather(*(host(f"rollout_worker_{i}") for i in range(self.processes)))

        async def restart_worker(name: str) -> Role:
            if self.processes < self.workers:
                raise NotImplementedError(f"{name} shares its process with others")
            return numbered(await host(name), name)

        names = (f"rollout_worker_{i}" for i in range(self.workers))
        return RolloutWorkers(
            [numbered(hosts[i % self.processes], name) for i, name in enumerate(names)],
            restart_worker,
            self.deadlines,
            budget,
            max_running_sequences=lambda: AT_ONCE,
            seed=0,
            in_step=False,
            tell=self.tell,
        )

    async def _start_trainer(self, folder: Path, budget: RestartBudget) -> PolicyTrainerHandle:
        async def start() -> Ranks:
            self.attempt += 1
            settings = {"attempt": self.attempt, "update_s": self.update_s}
            role = await self._start(folder, "policy_trainer", "policy_trainer", **settings)
            return Ranks(name=role.name, roles=[role])

        return PolicyTrainerHandle(
            await start(), start, self.deadlines, budget, microbatch_tokens=lambda: 4096
        )

    def _see(self, line: Mapping[str, Any]) -> None:
        self.lines.append(dict(line))
        self.each_step()

    async def _start(self, folder: Path, kind: str, name: str, **settings: Any) -> Role:
        role = await start_role(
            name,
            self.classes[kind],
            resources=Resources(
                num_cpus=0.001, num_gpus=0, max_concurrency=AT_ONCE if kind == "rollout_worker" else 1
            ),
            logs=folder,
            deadlines=self.deadlines,
            **settings,
        )
        self._started.append(role)
        return role


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

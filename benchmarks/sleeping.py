"""Engines that sleep: every role as a real Ray actor behind the real fleet, without a model. Not a benchmark itself."""

import asyncio
import dataclasses
import functools
import json
import logging
import math
import pickle
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
    ReferenceModelHandle,
    RestartableRole,
    RestartBudget,
    RewardModelHandle,
    RolloutWorkers,
)
from rl_empathy.orchestration.fleet.calls import Resources, Role, start_role
from rl_empathy.orchestration.fleet.ranks import Ranks
from rl_empathy.orchestration.grpo import run_attempts, slots
from rl_empathy.orchestration.stop import StopSignal
from rl_empathy.types import (
    Completion,
    GroupHeader,
    GroupRewards,
    Message,
    Occurrence,
    PolicyVersion,
    Prompt,
    Pulse,
    Resumed,
    RolloutGroup,
    Row,
    Updated,
    VersionSpan,
)

AT_ONCE = 10_000
"""Groups that a sleeping worker takes at a time: as many as there are."""


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Heavy-tailed (log-normal) times to write a group, the same in every run."""

    mean_s: float
    sigma: float
    longest_s: float = math.inf
    """What max_completion_tokens allows."""

    def write_s(self, occurrence: Occurrence) -> float:
        """Seconds that the group of an occurrence takes."""
        tail = random.Random(f"{occurrence}").lognormvariate(-self.sigma * self.sigma / 2, self.sigma)
        return min(self.longest_s, self.mean_s * tail)


def prompt_stream() -> PromptStream:
    """What every run samples, in its order."""
    row = Row(id="row", messages=(Message(role="user", content="post"),))
    return PromptStream([(row, [1])] * 4096, seed=0)


def ideal_waits_s(config: GRPOConfig, lengths: Lengths, update_s: float) -> list[float]:
    """How long the trainer waits for groups in every step when nothing but writing and updating takes time.

    A simulation with the slots and the window of the real loop; the run takes their sum and the updates.
    """
    prompts = prompt_stream()
    pending: list[tuple[int, float]] = []  # number in the order of start, and when it is written
    now, number, waits = 0.0, 0, []
    free = slots(config)
    for _ in range(config.num_steps):
        for prompt in prompts.take(free):
            pending.append((number, now + lengths.write_s(prompt.occurrence)))
            number += 1
        began = now
        for _ in range(config.groups_per_step):
            window = [entry for entry in pending if entry[0] < pending[0][0] + config.look_ahead]
            now = max(now, min(done for _, done in window))
            pending.remove(next(entry for entry in window if entry[1] <= now))
        waits.append(now - began)
        now += update_s
        free = config.groups_per_step
    return waits


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
            terms={"format": totals}, totals=totals, errors=none, span_tokens=({},) * len(totals)
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
    """Processes of the workers; with fewer processes than workers none can be started anew."""
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
        budget = RestartBudget(RestartsConfig(), self.tell)
        host = functools.partial(self._start, folder, "rollout_worker", lengths=self.lengths)
        hosts = await asyncio.gather(*(host(f"rollout_worker_{i}") for i in range(self.processes)))

        async def start_worker(name: str) -> Role:
            if self.processes < self.workers:
                raise NotImplementedError(f"{name} shares its process with others")
            return _numbered(await host(name), name)

        async def start_trainer() -> Ranks:
            self.attempt += 1
            settings = {"attempt": self.attempt, "update_s": self.update_s}
            role = await self._start(folder, "policy_trainer", "policy_trainer", **settings)
            return Ranks(name=role.name, roles=[role])

        async def restartable(name: str) -> RestartableRole:
            start = functools.partial(self._start, folder, name, name)
            return RestartableRole(await start(), start, budget, retries=2)

        names = (f"rollout_worker_{i}" for i in range(self.workers))
        workers = [_numbered(hosts[i % self.processes], name) for i, name in enumerate(names)]
        rewards = await restartable("reward_model")
        reference = await restartable("reference_model") if self.config.kl_coef else None
        fleet = Fleet(
            trainer=PolicyTrainerHandle(
                await start_trainer(), start_trainer, self.deadlines, budget, microbatch_tokens=lambda: 4096
            ),
            rollout_workers=RolloutWorkers(
                workers,
                start_worker,
                self.deadlines,
                budget,
                max_running_sequences=lambda: AT_ONCE,
                seed=0,
                in_step=False,
                tell=self.tell,
            ),
            reward_model=RewardModelHandle(rewards, self.deadlines),
            reference_model=ReferenceModelHandle(reference, self.config, self.deadlines)
            if reference
            else NoReferenceModel(),
            budget=budget,
        )
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


class NumberedRole(Role):
    """A role that lives in a process with others."""

    def kill(self) -> None:
        """End the whole process."""
        ray.kill(self.actor.actor)


def _numbered(host: Role, name: str) -> Role:
    number = int(name.removeprefix("rollout_worker_"))
    settings = {f.name: getattr(host, f.name) for f in dataclasses.fields(host) if not f.name.startswith("_")}
    return NumberedRole(**settings | {"name": name, "actor": NumberedActor(host.actor, number)})


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

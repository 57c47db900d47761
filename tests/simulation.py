"""A whole GRPO run with every process simulated: real loop, fleet, buffer and ledger; seeded times and faults.

A simulated process lives, hangs, or is dead; its calls take virtual seconds. What it is asked for it answers as the
actor does, with Ray's own errors when it dies.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ray.exceptions import ActorDiedError, OutOfMemoryError

from rl_empathy.config.run_file import RunFile
from rl_empathy.config.sections import DeadlinesConfig, GRPOConfig, RestartsConfig
from rl_empathy.data.prompts import PromptStream
from rl_empathy.errors import PayloadLostError, VoidedError, WeightSyncError
from rl_empathy.observability.ledger import Ledger
from rl_empathy.observability.metrics import MetricsLog
from rl_empathy.orchestration.fleet import (
    PolicyTrainerHandle,
    ReferenceModelHandle,
    RestartableRole,
    RestartBudget,
    RewardModelHandle,
    RolloutWorkers,
    Savings,
)
from rl_empathy.orchestration.fleet.calls import Role
from rl_empathy.orchestration.fleet.ranks import Ranks
from rl_empathy.orchestration.grpo import run_attempts
from rl_empathy.orchestration.scaling import BY_HAND, Scaler
from rl_empathy.orchestration.stop import StopSignal
from rl_empathy.types import (
    Completion,
    GroupHeader,
    Occurrence,
    PolicyVersion,
    Prompt,
    Pulse,
    Resumed,
    RolloutGroup,
    Updated,
    VersionSpan,
)
from tests.fakes import LocalFleet, make_rewards, make_row

DEADLINES = DeadlinesConfig(
    start_s=300,
    sample_s=400,
    score_s=60,
    update_s=120,
    publish_s=60,
    checkpoint_s=60,
    workers_s=600,
    health_s=30,
)

NOTICE_S = 30.0
"""Notice of Google's spot machines, and of Kubernetes by default."""
GENEROUS = RestartsConfig(each_role=1000, whole_run=1000)


class Process:
    """What all simulated processes share: times from a seed, and the ways to fail."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.is_dead = False
        self.is_hung = False
        self.asked_to_go = False
        self._calls: set[asyncio.Task[Any]] = set()
        self._answers: set[asyncio.Future[Any]] = set()

    def die(self, error: Exception | None = None) -> None:
        self.is_dead = True
        for call in self._calls:
            call.cancel()
        for answer in self._answers:
            if not answer.done():
                _fail(answer, error)

    def hang(self) -> None:
        """As after SIGSTOP: nothing is answered, and nothing goes on."""
        self.is_hung = True
        for call in self._calls:
            call.cancel()

    async def ready(self) -> Pulse:
        return Pulse("a-node", self.asked_to_go)

    async def __ray_call__(self, function: Callable[..., Any]) -> None:
        """Ray's call of a function in the actor's process."""

    async def spend(self, mean_s: float) -> None:
        """Take a heavy-tailed time."""
        await asyncio.sleep(mean_s * self.dice.lognormvariate(-0.5, 1.0))

    def ask(self, name: str, num_returns: int, arguments: tuple[Any, ...]) -> Any:
        loop = asyncio.get_running_loop()
        answers = [loop.create_future() for _ in range(num_returns)]
        if self.is_dead:
            for answer in answers:
                _fail(answer)
        elif not self.is_hung:
            self._answers.update(answers)
            call = loop.create_task(self._work(name, answers, arguments))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
        else:
            self._answers.update(answers)
        return answers[0] if num_returns == 1 else tuple(answers)

    async def _work(self, name: str, answers: list[asyncio.Future[Any]], arguments: tuple[Any, ...]) -> None:
        values = [await a if isinstance(a, asyncio.Future) else a for a in arguments]
        try:
            result = await getattr(self, name)(*values)
        except (PayloadLostError, VoidedError, WeightSyncError) as error:
            results: list[Any] = [error] * len(answers)
        else:
            results = [result] if len(answers) == 1 else list(result)
        for answer, value in zip(answers, results, strict=True):
            self._answers.discard(answer)
            if answer.cancelled():  # nobody waits for it any more
                continue
            if isinstance(value, Exception):
                answer.set_exception(value)
                answer.exception()  # seen, as in _fail
            else:
                answer.set_result(value)


def _fail(answer: asyncio.Future[Any], error: Exception | None = None) -> None:
    answer.set_exception(error or ActorDiedError())
    answer.exception()  # seen, so that what nobody waits for any more is not printed


class Method:
    """Called as Ray's are: `actor.method.options(num_returns=2).remote(...)`."""

    def __init__(self, process: Process, name: str, num_returns: int = 1) -> None:
        self._process, self._name, self._num_returns = process, name, num_returns

    def options(self, *, num_returns: int = 1, concurrency_group: str = "") -> "Method":
        return Method(self._process, self._name, num_returns)

    def remote(self, *arguments: Any) -> Any:
        return self._process.ask(self._name, self._num_returns, arguments)


class Actor:
    def __init__(self, process: Process) -> None:
        self.process = process

    def __getattr__(self, name: str) -> Method:
        return Method(self.process, name)


class SimulatedRole(Role):
    def kill(self) -> None:
        self.actor.process.die()


class SimulatedWorkers(RolloutWorkers):
    """On one node, which stays."""

    async def _nodes_to_leave(self) -> set[str]:
        return set()


class Worker(Process):
    """Samples groups whose tokens know the version that wrote them; publishes land in the middle."""

    def __init__(
        self, dice: random.Random, unloadable: Callable[[PolicyVersion], bool], disk: "Disk"
    ) -> None:
        super().__init__(dice)
        self.unloadable = unloadable
        self.disk = disk
        self.most_groups = 0
        """Under way at a time, ever."""
        self.version = PolicyVersion(0, 0)
        self.last_load = 0
        self._voided = asyncio.Event()
        self.busy_s = 0.0
        self._running = 0
        self._since = 0.0

    def _runs(self, change: int) -> None:
        now = asyncio.get_running_loop().time()
        if self._running:
            self.busy_s += now - self._since
        self._running, self._since = self._running + change, now
        self.most_groups = max(self.most_groups, self._running)

    async def sample(self, prompt: Prompt, sampling: Any, group_size: int, seed: int, together: int) -> Any:
        admitted, voided = self.version, self._voided
        halves = []
        self._runs(+1)
        try:
            for _ in range(2):
                await self.spend(4.0)
                if voided.is_set():
                    raise VoidedError(f"{prompt.row.id} was given up")
                halves.append(self.version)
        finally:
            self._runs(-1)
        spans = tuple(VersionSpan(version, i, i + 1) for i, version in enumerate(halves))
        completion = Completion(
            token_ids=(5, 2),
            rollout_logprobs=(-0.5, -0.5),
            version_spans=spans,
            finish_reason="stop",
            text="x",
        )
        group = RolloutGroup(prompt=prompt, completions=(completion,) * group_size, admitted=admitted)
        return GroupHeader.of(group, worker="simulated", sample_s=0.0), group

    async def load_weights(self, weights: PolicyVersion, whole: bool, number: int) -> Any:
        await self.spend(0.5)  # on the way, where another one may overtake it
        if number < self.last_load:
            raise WeightSyncError("a newer load came before")
        if weights.attempt in self.disk.lost_attempts:
            raise PayloadLostError("the node that had the weights is gone")
        self.last_load = number
        if self.unloadable(weights):
            raise WeightSyncError("the tensors do not fit")
        if whole or weights.attempt != self.version.attempt:
            self._voided.set()
            self._voided = asyncio.Event()
        self.version = weights
        self._runs(0)
        return weights, {"pause_s": 0.0, "busy_s": self.busy_s}


class Rewards(Process):
    """Gives one prompt of `flat_every` equal rewards, so that its group is dropped; 0: none."""

    def __init__(self, dice: random.Random, flat_every: int) -> None:
        super().__init__(dice)
        self.flat_every = flat_every

    async def score(self, group: RolloutGroup) -> Any:
        await self.spend(0.5)
        occurrence = group.prompt.occurrence
        flat = self.flat_every and (occurrence.epoch * 5 + occurrence.index) % self.flat_every == 0
        return make_rewards(*(0.0 if flat else float(i) for i in range(len(group.completions))))


class Reference(Process):
    async def logprobs(self, group: RolloutGroup, temperature: float) -> Any:
        await self.spend(0.5)
        return None, ("logprobs", group.prompt.occurrence)


@dataclass
class Disk:
    """What outlives every process: whole checkpoints, newest last, and the count of attempts."""

    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    exported: "list[Trained]" = field(default_factory=list)
    attempt: int = 0
    lost_attempts: set[int] = field(default_factory=set)
    """Whose weights are gone from the object store, with the trainer's node."""


@dataclass
class Trained:
    """A group as it was trained, and the version that was trained."""

    group: RolloutGroup
    version: PolicyVersion


class Trainer(Process):
    """Its weights are the list of what it was trained on, so that a checkpoint shows what survived."""

    def __init__(self, dice: random.Random, disk: Disk, update_s: float) -> None:
        super().__init__(dice)
        self.disk = disk
        self.update_s = update_s
        disk.attempt += 1
        self.version = PolicyVersion(disk.attempt, 0)
        self.trained: list[Trained] = []
        self.held: dict[str, Any] | None = None
        self.names = [self.version]
        """Which version name each number had last."""

    async def resume(self) -> Any:
        await self.spend(1.0)
        if not self.disk.checkpoints:
            return self.version, Resumed()
        saved = self.disk.checkpoints[-1]
        self.version = PolicyVersion(self.version.attempt, saved["step"])
        self.trained, self.names = list(saved["trained"]), [*saved["names"], self.version]
        return self.version, Resumed(driver=saved["driver"], finished=saved["finished"])

    async def update(
        self, rewards: Any, has_reference: bool, microbatch_tokens: int, *payloads: Any
    ) -> Updated:
        groups, references = payloads[: len(rewards)], payloads[len(rewards) :]
        assert [o for _, o in references] == [group.prompt.occurrence for group in groups]
        await self.spend(self.update_s)
        self.trained += [Trained(group, self.version) for group in groups]
        self.version = PolicyVersion(self.version.attempt, self.version.number + 1)
        self.names.append(self.version)
        return Updated(metrics={"policy/loss": 0.0}, busy_s=0.0)

    async def weights(self) -> Any:
        await self.spend(0.2)
        return None, self.version

    async def snapshot(self, driver: dict[str, Any], score: float | None, *finished: RolloutGroup) -> None:
        await self.spend(0.2)
        self.held = {
            "step": self.version.number,
            "trained": list(self.trained),
            "names": list(self.names),
            "driver": driver,
            "finished": tuple(finished),
        }

    async def write_snapshot(self) -> None:
        saved, self.held = self.held, None
        await self.spend(3.0)  # longer than an update
        if saved:
            self.disk.checkpoints.append(saved)  # whole or absent

    async def export(self, folder: str) -> None:
        await asyncio.sleep(3.0)
        self.disk.exported = list(self.trained)


@dataclass
class Fault:
    """Something that happens to a role at a time."""

    at_s: float
    role: str
    how: str
    """kill, hang or memory (it ran out of it); of the driver: kill; of a rollout worker also notice: it is killed
    NOTICE_S later; of the policy trainer also node: it goes with its node, all rollout workers and the weights that are
    published.
    """


@dataclass
class Simulation:
    """A run of which every process may fail, on a disk that does not."""

    seed: int
    folder: Path
    num_workers: int = 3
    max_running_sequences: int = 2
    minimum: int = 1
    maximum: int = 0
    """Workers at most; 0: their number is fixed."""
    update_s: float = 3.0
    start_s: float = 10.0
    flat_every: int = 0
    unloadable: Callable[[str, PolicyVersion], bool] = lambda worker, version: False
    """Whether a worker cannot load a version."""
    grpo: dict[str, Any] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    restarts: RestartsConfig = GENEROUS
    deadlines: DeadlinesConfig = DEADLINES

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.disk = Disk()
        self.happened: list[Fault] = []
        self.processes: dict[str, Process] = {}
        defaults = {
            "num_steps": 6,
            "groups_per_step": 2,
            "group_size": 2,
            "max_staleness": 1,
            "checkpoint_every": 2,
        }
        self.config = GRPOConfig(**{**defaults, **self.grpo})
        self.ledger = Ledger(self.folder / "ledger.jsonl")

    async def run(self, faults: list[Fault]) -> None:
        """Run until the end, with a new driver whenever the driver is killed."""
        loop = asyncio.get_running_loop()
        for fault in faults:
            if fault.role != "driver":
                loop.call_at(fault.at_s, self._strike, fault)
        kills = sorted(fault.at_s for fault in faults if fault.role == "driver")
        while True:
            driver = asyncio.create_task(self._drive())
            left_s = kills.pop(0) - loop.time() if kills else None
            done, _ = await asyncio.wait((driver,), timeout=None if left_s is None else max(0.01, left_s))
            if done:
                return driver.result()
            driver.cancel()
            await asyncio.wait((driver,))
            self.happened.append(Fault(loop.time(), "driver", "kill"))
            for process in self.processes.values():
                process.die()
            self.processes.clear()

    def _strike(self, fault: Fault) -> None:
        process = self.processes.get(fault.role)
        if process and not process.is_dead:
            self.happened.append(fault)
            if fault.how == "notice":
                process.asked_to_go = True
                asyncio.get_running_loop().call_later(NOTICE_S, process.die)
            elif fault.how == "memory":
                process.die(
                    OutOfMemoryError("1 worker(s) were killed due to the node running low on memory.")
                )
            elif fault.how == "node":
                self.disk.lost_attempts.add(self.disk.attempt)
                for other in self.processes.values():
                    if isinstance(other, Trainer | Worker):
                        other.die()
            else:
                process.die() if fault.how == "kill" else process.hang()

    async def _start(self, name: str, make: Callable[[], Process]) -> Role:
        process = make()
        if (
            name in self.processes
        ):  # a first start that fails ends the run at once; one that is struck later does not
            self.processes[name] = process
        role = SimulatedRole(name=name, actor=Actor(process), log=self.folder / f"{name}.log")
        await asyncio.sleep(self.start_s * self.dice.random())
        await role.answer(role.actor.ready.remote(), seconds=self.deadlines.start_s, doing="start")
        self.processes[name] = process
        role.node, role.health_s = "a-node", self.deadlines.health_s
        return role

    async def _drive(self) -> None:
        model = {"from_scratch": {}}
        savings = Savings(self.folder, RunFile.model_validate({"model": model, "grpo": self.grpo}))
        budget = RestartBudget(self.restarts, self.told.append, savings)

        def starting(name: str, make: Callable[[], Process]) -> Callable[[], Awaitable[Role]]:
            return lambda: self._start(name, make)

        def own_dice() -> random.Random:
            return random.Random(self.dice.getrandbits(32))

        def starting_again(name: str, start: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
            return lambda: rollout_workers.roster.start_first(name, start)

        async def start_trainer() -> Ranks:
            role = await self._start("policy_trainer", lambda: Trainer(own_dice(), self.disk, self.update_s))
            return Ranks(name=role.name, roles=[role])

        start_rewards = starting("reward_model", lambda: Rewards(own_dice(), self.flat_every))
        start_reference = starting("reference_model", lambda: Reference(own_dice()))

        def start_worker(name: str) -> Awaitable[Role]:
            return self._start(name, lambda: Worker(own_dice(), partial(self.unloadable, name), self.disk))

        trainer, rewards, reference, *workers = await asyncio.gather(
            start_trainer(),
            start_rewards(),
            start_reference(),
            *(start_worker(f"rollout_worker_{i}") for i in range(self.num_workers)),
        )
        rollout_workers = SimulatedWorkers(
            workers,
            start_worker,
            self.deadlines,
            budget,
            max_running_sequences=lambda: self.max_running_sequences,
            seed=0,
            in_step=False,
            tell=self.told.append,
        )

        def scorer(role: Role, start: Callable[[], Awaitable[Role]]) -> RestartableRole:
            again = starting_again(role.name, start)
            return RestartableRole(role, again, budget, retries=self.config.reward_retries)

        start_next = starting_again("policy_trainer", start_trainer)
        fleet = LocalFleet(
            trainer=PolicyTrainerHandle(
                trainer, start_next, self.deadlines, budget, microbatch_tokens=lambda: 4096
            ),
            rollout_workers=rollout_workers,
            reward_model=RewardModelHandle(scorer(rewards, start_rewards), self.deadlines),
            reference_model=ReferenceModelHandle(
                scorer(reference, start_reference), self.config, self.deadlines
            ),
            budget=budget,
            scaler=Scaler(self.minimum, self.maximum, self.folder / BY_HAND) if self.maximum else None,
        )
        await run_attempts(
            self.config,
            fleet,
            PromptStream([(make_row(i), [1, 2, 3]) for i in range(5)], seed=0),
            self.ledger,
            MetricsLog(self.folder / "metrics.jsonl"),
            stop=StopSignal(),
            tell=self.told.append,
            export_to=self.folder / "model",
        )


def random_faults(seed: int, *, count: int, num_workers: int, until_s: float) -> list[Fault]:
    """A schedule of faults: any role, any time, any way."""
    dice = random.Random(seed)
    workers = [f"rollout_worker_{i}" for i in range(num_workers)]
    roles = [*workers, "policy_trainer", "reward_model", "reference_model", "driver"]

    def random_fault() -> Fault:
        role = dice.choice(roles)
        ways = ["kill", "kill", "hang", *(["notice"] if role in workers else [])]
        return Fault(dice.uniform(0, until_s), role, dice.choice(ways))

    return [random_fault() for _ in range(count)]


def occurrences(trained: list[Trained]) -> list[Occurrence]:
    return [entry.group.prompt.occurrence for entry in trained]


def staleness(entry: Trained) -> int:
    """Versions between the one trained and the one at the group's admission or the oldest token."""
    header = GroupHeader.of(entry.group, worker="", sample_s=0.0)
    return entry.version.number - header.oldest.number

"""Small stand-ins, named by what they do: for scale, for timing, and for failures. No Ray, no model."""

import asyncio
import random
from pathlib import Path

from rl_empathy.config.sections import RestartsConfig
from rl_empathy.errors import PayloadLostError, ScorerLostError
from rl_empathy.orchestration.fleet import Fleet, GroupHandle, RestartBudget
from rl_empathy.orchestration.fleet.calls import Role
from rl_empathy.types import (
    Completion,
    GroupHeader,
    GroupRewards,
    Message,
    Occurrence,
    PolicyVersion,
    Prompt,
    RolloutGroup,
    Row,
    Updated,
    VersionSpan,
)

START = PolicyVersion(1, 0)


def make_row(number: int = 0) -> Row:
    return Row(id=f"row-{number}", messages=(Message(role="user", content=f"post {number}"),))


def make_prompt(index: int = 0, epoch: int = 0) -> Prompt:
    return Prompt(occurrence=Occurrence(epoch, index), row=make_row(index), token_ids=(1, 2, 3))


def make_completion(*ids: int, version: PolicyVersion = START, finish: str = "stop") -> Completion:
    ids = ids or (5, 6, 2)
    return Completion(
        token_ids=ids,
        rollout_logprobs=tuple(-0.5 for _ in ids),
        version_spans=(VersionSpan(version, 0, len(ids)),),
        finish_reason=finish,
        text="text",
    )


def make_group(prompt: Prompt | None = None, *, size: int = 2, version: PolicyVersion = START):
    return RolloutGroup(
        prompt=prompt or make_prompt(),
        completions=tuple(make_completion(5 + i, 2, version=version) for i in range(size)),
        admitted=version,
    )


def make_rewards(*totals: float | None, terms=None, weight: float = 1.0) -> GroupRewards:
    """Of one term, or of several, each of the weight."""
    terms = terms or {"format": totals}
    return GroupRewards(
        terms=terms,
        weights=dict.fromkeys(terms, weight),
        totals=totals,
        errors=tuple(() for _ in totals),
        span_tokens=tuple({} for _ in totals),
    )


class RandomlySlowWorkers:
    """Rollout workers that sleep for a random time and remember the version they held at admission."""

    def __init__(self, *, seed: int = 0, slowest_s: float = 0.004, count: int = 2) -> None:
        self.version = PolicyVersion(0, 0)
        self.sampled: list[Occurrence] = []
        self.version_of: dict[Occurrence, PolicyVersion] = {}
        self._random = random.Random(seed)
        self._slowest_s = slowest_s
        self._count = count

    @property
    def num_ready(self) -> int:
        return self._count

    async def sample(self, prompt, *, sampling, group_size, cohort=(), lost=None) -> GroupHandle:
        group = make_group(prompt, size=group_size, version=self.version)
        self.sampled.append(prompt.occurrence)
        self.version_of[prompt.occurrence] = self.version
        await asyncio.sleep(self._random.random() * self._slowest_s)
        header = GroupHeader.of(group, worker="fake", sample_s=0.0)
        return GroupHandle(header=header, payload=group)

    async def watch(self) -> None:
        pass  # none goes

    async def load(self, offer, anew=None):
        self.version = offer.version
        report = {"pause_s": 0.0, "busy_s": 0.0}
        return {f"worker_{i}": report for i in range(self._count)}


class SlowlyLoadingWorkers(RandomlySlowWorkers):
    """Takes a while to load, and counts the loads during which an update began."""

    def __init__(self, trainer: "RecordingTrainer") -> None:
        super().__init__()
        self._trainer = trainer
        self.loads_during_updates = 0

    async def load(self, offer, anew=None):
        before = len(self._trainer.trained)
        await asyncio.sleep(0.03)
        self.loads_during_updates += len(self._trainer.trained) > before
        return await super().load(offer)


class StuckWorkers(RandomlySlowWorkers):
    """From one publish on they do not take weights any more."""

    def __init__(self, *, number: int) -> None:
        super().__init__()
        self._number = number

    async def load(self, offer, anew=None):
        if offer.version.number >= self._number:
            await asyncio.Event().wait()
        return await super().load(offer)


class ForgettingWorkers(RandomlySlowWorkers):
    """The weights of one publish are gone before they can load them, as when the trainer's node dies."""

    def __init__(self, *, number: int) -> None:
        super().__init__()
        self._number = number

    async def load(self, offer, anew=None):
        if offer.version.number == self._number:
            raise PayloadLostError("the object is lost")
        return await super().load(offer)


class DyingWorkers(RandomlySlowWorkers):
    """Fails on the n-th sample."""

    def __init__(self, *, dies_at: int, error: Exception) -> None:
        super().__init__()
        self._left, self._error = dies_at, error

    async def sample(self, prompt, **arguments) -> GroupHandle:
        self._left -= 1
        if self._left == 0:
            raise self._error
        return await super().sample(prompt, **arguments)


class Endless(Role):
    """Lives until it is ended."""

    is_ended = False

    def kill(self) -> None:
        self.is_ended = True


def endless(name: str) -> Endless:
    return Endless(name=name, actor=None, log=Path("logs") / f"{name}.log")


class AlternatingRewards:
    """Gives every n-th prompt equal rewards, so that its group has no spread."""

    def __init__(self, *, flat_every: int = 0) -> None:
        self._flat_every = flat_every

    async def score(self, group: GroupHandle) -> GroupRewards:
        size = len(group.header.completion_tokens)
        flat = self._flat_every and group.header.occurrence.index % self._flat_every == 0
        return make_rewards(*([1.0] * size if flat else [float(i) for i in range(size)]))


class SlowRewards(AlternatingRewards):
    """Takes so long over every group."""

    def __init__(self, *, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    async def score(self, group: GroupHandle) -> GroupRewards:
        await asyncio.sleep(self._seconds)
        return await super().score(group)


class PoisonedRewards(AlternatingRewards):
    """One prompt of every epoch costs the reward model its life, whenever it is scored."""

    def __init__(self, *, index: int) -> None:
        super().__init__()
        self._index = index

    async def score(self, group: GroupHandle) -> GroupRewards:
        if group.header.occurrence.index == self._index:
            raise ScorerLostError("it is gone. So it ended 3 times")
        return await super().score(group)


class NoReference:
    async def logprobs(self, group: GroupHandle) -> None:
        return None


class RecordingTrainer:
    """Counts versions and remembers what it was given."""

    def __init__(self, *, update_s: float = 0.001, number: int = 0) -> None:
        self.version = PolicyVersion(1, number)
        self.trained: list[tuple[Occurrence, ...]] = []
        self.staleness: list[int] = []
        self.checkpoints: list[tuple[int, dict, list[RolloutGroup]]] = []
        self.scores: list[float | None] = []
        self._update_s = update_s

    async def update(self, groups) -> Updated:
        self.trained.append(tuple(group.header.occurrence for group in groups))
        self.staleness += [self.version.number - group.header.oldest.number for group in groups]
        await asyncio.sleep(self._update_s)
        self.version = replace_number(self.version, self.version.number + 1)
        return Updated(metrics={"policy/loss": 0.0}, busy_s=self._update_s)

    def microbatch_tokens(self) -> int:
        return 4096

    async def until_idle(self) -> bool:
        return True

    async def weights(self) -> str:
        return "weights"

    async def snapshot(self, driver, finished, score) -> None:
        self.scores.append(score)
        self._snapshot = (self.version.number, driver, [group.payload for group in finished])

    async def write_snapshot(self) -> None:
        self.checkpoints.append(self._snapshot)


def replace_number(version: PolicyVersion, number: int) -> PolicyVersion:
    return version._replace(number=number)


class LocalFleet(Fleet):
    """Adopts groups without an object store."""

    def adopt(self, group: RolloutGroup) -> GroupHandle:
        return GroupHandle(header=GroupHeader.of(group, worker="checkpoint", sample_s=None), payload=group)


def make_fleet(*, workers=None, trainer=None, rewards=None) -> LocalFleet:
    return LocalFleet(
        trainer=trainer or RecordingTrainer(),
        rollout_workers=workers or RandomlySlowWorkers(),
        reward_model=rewards or AlternatingRewards(),
        reference_model=NoReference(),
        budget=RestartBudget(RestartsConfig(), print),
    )

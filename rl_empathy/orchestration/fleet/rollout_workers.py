"""The rollout workers, seen as one: who may serve, what they hold, and what happens when one is lost (C5)."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import ObjectRef

from rl_empathy.algorithms.worker_states import WorkerEvent, WorkerState, next_state
from rl_empathy.config.sections import DeadlinesConfig, SamplingConfig
from rl_empathy.errors import RoleTimeoutError, VoidedError, WeightSyncError
from rl_empathy.orchestration.fleet.calls import Role
from rl_empathy.orchestration.fleet.group_handle import GroupHandle
from rl_empathy.orchestration.fleet.restarts import LOST, RestartBudget, start_anew
from rl_empathy.types import PolicyVersion, Prompt, RolloutGroup


@dataclass(eq=False)
class _Worker:
    """One process in the place of a rollout worker; its successor is another object, which fences its answers."""

    role: Role
    incarnation: int = 1
    state: WorkerState = "stale"
    groups: int = 0
    """Under way."""
    succeeded: bool = False
    """Dead, and another one is being started in its place."""

    def __str__(self) -> str:
        return f"{self.role.name} ({self.state})"

    @property
    def key(self) -> str:
        return f"{self.role.name}.{self.incarnation}"

    def move(self, event: WorkerEvent) -> None:
        self.state = next_state(self.state, event)


@dataclass(frozen=True)
class _Load:
    """How a worker gets the weights that are published now."""

    version: PolicyVersion
    ask: Callable[[Role, bool], Awaitable[Any]]
    """The call; true: whole, so that what the worker had under way is given up."""


class RolloutWorkers:
    """All rollout workers: `sample` goes to one that is ready, `load_weights` to every one that lives.

    One that is lost is started anew while the others go on, and is refitted with what is published before it
    serves; a prompt that was under way there is sampled elsewhere. Loads and refits never overlap.
    """

    def __init__(
        self,
        roles: Sequence[Role],
        start: Callable[[str], Awaitable[Role]],
        deadlines: DeadlinesConfig,
        budget: RestartBudget,
        *,
        seed: int,
        in_step: bool,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Take workers over that are up.

        Args:
            roles: The actors.
            start: Starts one of that name anew.
            deadlines: Of the calls.
            budget: Of restarts.
            seed: The run's; a request's seed follows from it and the occurrence.
            in_step: Worker = index of the prompt modulo workers, and a worker begins only when its whole share of a
                cohort is there (deterministic runs): there a lost worker ends the run, which can be resumed.
                Otherwise the one with the fewest groups under way is asked.
            tell: Told of workers that miss a publish.
        """
        self._workers = [_Worker(role) for role in roles]
        self._minimum = len(self._workers)
        self._coming: set[str] = set()
        self._start = start
        self._deadlines = deadlines
        self._budget = budget
        self._seed = seed
        self._in_step = in_step
        self._tell = tell
        self._load: _Load | None = None
        self._loading = asyncio.Lock()
        self._changed = asyncio.Event()
        self._problem: Exception | None = None
        self._repairs: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Workers that are there or coming, and stay."""
        leaving = ("draining", "stopped")
        return len(self._coming) + sum(worker.state not in leaving for worker in self._workers)

    @property
    def num_ready(self) -> int:
        """Workers that may serve now."""
        return sum(worker.state == "ready" for worker in self._workers)

    async def sample(
        self,
        prompt: Prompt,
        *,
        sampling: SamplingConfig,
        group_size: int,
        cohort: Sequence[Prompt] = (),
        lost: Callable[[], None] = lambda: None,
    ) -> GroupHandle:
        """Have a group written, by another worker when one is lost.

        Args:
            prompt: What to answer.
            sampling: Temperature and length.
            group_size: Completions wanted.
            cohort: The prompts that start together with this one.
            lost: Told whenever the group was lost and begins anew.

        Raises:
            RoleTimeoutError: For cluster.deadlines.workers_s no worker was ready.
            RoleDiedError: The restarts are spent and no worker is left.
        """
        doing = f"sample the group of prompt {prompt.row.id}"
        while True:
            worker, together = await self._choose(prompt, cohort, doing)
            worker.groups += 1
            try:
                header, payload = worker.role.actor.sample.options(num_returns=2).remote(
                    prompt, sampling, group_size, self._request_seed(prompt), together
                )
                header = await worker.role.answer(header, seconds=self._deadlines.sample_s, doing=doing)
                return GroupHandle(header=header, payload=payload)
            except LOST as error:
                self._lost(worker, error)
            except VoidedError:
                pass  # the worker lives, and gave the group up for a whole load
            finally:
                worker.groups -= 1
                self._changed.set()  # one that drains may be done
            lost()

    async def load_weights(
        self, weights: "ObjectRef[Any]", version: PolicyVersion
    ) -> dict[str, dict[str, float]]:
        """Have every worker load a version; one that is late or lost follows on its own.

        Args:
            weights: In the object store, where they stay for those that join later.
            version: What they are.

        Returns:
            Pause, busy seconds and tokens of each worker that loaded it in time, by a name of its process.

        Raises:
            WeightSyncError: A worker holds another version afterwards.
            RoleTimeoutError: Fewer than cluster.rollout_workers.min are ready after cluster.deadlines.workers_s.
        """
        return await self._bring(
            _Load(version, lambda role, whole: role.actor.load_weights.remote(weights, whole))
        )

    async def load_model(self, folder: Path, version: PolicyVersion) -> None:
        """Have every worker load the weights of a model folder of the same architecture."""
        await self._bring(
            _Load(version, lambda role, whole: role.actor.load_model.remote(str(folder), version, whole))
        )

    def scale_to(self, count: int, reason: str) -> None:
        """Start or take away workers; this returns at once, and they come and go on their own.

        A new one is refitted before it serves; one that goes ends its groups first. What cannot be started within
        cluster.deadlines.start_s, since the cluster has no room, is told of and left.

        Args:
            count: Wanted.
            reason: Why, for the user.
        """
        self._tell(f"{len(self)} -> {count} rollout workers: {reason}")
        self._minimum = min(self._minimum, count)
        self._add_new(count - len(self))
        ready = sorted((w for w in self._workers if w.state == "ready"), key=lambda worker: worker.groups)
        for worker in ready[: max(0, len(self) - count)]:
            worker.move("drain")
            self._repair(self._drain(worker))

    def leave_nodes(self, nodes: Collection[str]) -> None:
        """Have the workers of nodes that are about to go end their groups, and others start in their place.

        Args:
            nodes: Ray's names of them.
        """
        if self._in_step:  # the number of workers decides who writes what
            return
        for worker in [w for w in self._workers if w.state == "ready" and w.role.node_id in nodes]:
            self._tell(
                f"{worker.role} is on a node that is about to go: it ends its groups, another one is started"
            )
            worker.move("drain")
            self._repair(self._drain(worker))
            self._add_new(1)

    async def payload(self, group: GroupHandle) -> RolloutGroup:
        """Fetch a payload into this process, for evaluation."""
        return await self._workers[0].role.answer(
            group.payload,
            seconds=self._deadlines.sample_s,
            doing=f"hand over the group of {group.header.row_id}",
        )

    def _add_new(self, count: int) -> None:
        taken = self._coming | {worker.role.name for worker in self._workers}
        free = (name for i in itertools.count() if (name := f"rollout_worker_{i}") not in taken)
        for name in itertools.islice(free, max(0, count)):
            self._coming.add(name)
            self._repair(self._add(name))

    async def _choose(self, prompt: Prompt, cohort: Sequence[Prompt], doing: str) -> tuple[_Worker, int]:
        if self._in_step:
            number = prompt.occurrence.index % len(self._workers)  # their number never changes here
            await self._until(lambda: self._workers[number].state == "ready", len(self._workers), doing)
            return self._workers[number], sum(
                p.occurrence.index % len(self._workers) == number for p in cohort
            )
        await self._until(lambda: self.num_ready > 0, 1, doing)
        ready = [worker for worker in self._workers if worker.state == "ready"]
        return min(ready, key=lambda worker: worker.groups), 1

    def _request_seed(self, prompt: Prompt) -> int:
        return random.Random(f"{self._seed}/{prompt.occurrence}").getrandbits(31)

    async def _bring(self, load: _Load) -> dict[str, dict[str, float]]:
        async with self._loading:
            self._load = load
            living = [worker for worker in self._workers if worker.state in ("stale", "ready")]
            reports = await asyncio.gather(*(self._refit(worker, load) for worker in living))
        stats = {
            worker.key: report for worker, report in zip(living, reports, strict=True) if report is not None
        }
        doing = f"load policy version {load.version}"
        await self._until(lambda: self.num_ready >= self._minimum, self._minimum, doing)
        return stats

    async def _refit(self, worker: _Worker, load: _Load) -> dict[str, float] | None:
        """Have a worker load what is published: its report, or None when it is late or lost."""
        whole = worker.state == "stale"
        worker.move("load")
        try:
            held, stats = await worker.role.answer(
                load.ask(worker.role, whole),
                seconds=self._deadlines.publish_s,
                doing=f"load policy version {load.version}",
            )
        except LOST as error:
            late = isinstance(error, RoleTimeoutError) and not whole and not self._in_step
            if late and worker.state == "loading":
                worker.move("miss")
                self._tell(f"{error}. It gets no prompts until it was refitted")
                self._repair(self._join(worker))
            else:
                self._lost(worker, error)
            return None
        except asyncio.CancelledError:
            if worker.state == "loading":  # nobody knows what it holds
                worker.move("miss")
            raise
        if held != load.version:
            raise WeightSyncError(
                f"{worker} holds version {held} after the publish of {load.version}: {worker.role.log}"
            )
        if worker.state == "loading":  # else it was lost meanwhile
            worker.move("loaded")
            self._changed.set()
        return stats  # type: ignore[no-any-return]

    def _lost(self, worker: _Worker, error: Exception) -> None:
        """The first who notices that a worker is gone has another one put in its place."""
        if worker.state in ("dead", "stopped"):
            return
        was_leaving = worker.state == "draining"
        worker.move("die")
        if was_leaving:
            self._changed.set()
        elif self._in_step:
            self._problem = error
            self._changed.set()
        else:
            self._repair(self._replace(worker, error))

    async def _replace(self, worker: _Worker, error: Exception) -> None:
        worker.succeeded = True
        try:
            role = await start_anew(worker.role, lambda: self._start(worker.role.name), self._budget, error)
        finally:
            worker.succeeded = False
        successor = _Worker(role, worker.incarnation + 1)
        self._workers[self._workers.index(worker)] = successor
        await self._join(successor)

    async def _add(self, name: str) -> None:
        try:
            worker = _Worker(await self._start(name))
        except LOST as error:
            self._tell(f"{error}. Going on with {len(self) - 1} rollout workers")
            return
        finally:
            self._coming.discard(name)
        self._workers.append(worker)
        await self._join(worker)

    async def _drain(self, worker: _Worker) -> None:
        """Let a worker end its groups, and end it; what is not done by the deadline of a group is sampled again."""
        doing = f"let {worker.role.name} finish its groups"
        try:
            await self._until(lambda: worker.groups == 0 or worker.state == "dead", 0, doing)
        except RoleTimeoutError as error:
            self._tell(str(error))
        if worker.state == "draining":
            worker.move("stop")
        worker.role.kill()
        self._workers.remove(worker)

    async def _join(self, worker: _Worker) -> None:
        async with self._loading:
            if worker.state == "stale" and self._load is not None:
                await self._refit(worker, self._load)

    def _repair(self, work: Coroutine[Any, Any, None]) -> None:
        async def repair() -> None:
            try:
                await work
            except Exception as error:  # raised to whoever waits for workers, see _until
                self._problem = error
                self._changed.set()

        task = asyncio.create_task(repair())
        self._repairs.add(task)
        task.add_done_callback(self._repairs.discard)

    async def _until(self, condition: Callable[[], bool], wanted: int, doing: str) -> None:
        """Wait for workers, as long as `wanted` of them are alive or being started anew."""
        limit = asyncio.timeout(self._deadlines.workers_s)
        try:
            async with limit:
                while not condition():
                    self._raise_problem(wanted)
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            if not limit.expired():  # the problem was a late role
                raise
            states = ", ".join(map(str, self._workers))
            raise RoleTimeoutError(
                f"to {doing}, the run waited {self._deadlines.workers_s:g} s for rollout workers "
                f"(cluster.deadlines.workers_s): {states}. Their logs: {self._workers[0].role.log.parent}"
            ) from None

    def _raise_problem(self, wanted: int) -> None:
        hopeful = sum(worker.state != "dead" or worker.succeeded for worker in self._workers)
        if self._problem and (hopeful < wanted or not isinstance(self._problem, LOST)):
            raise self._problem

"""Which rollout workers there are: they are lost and replaced, added and drained, and waited for."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from rl_empathy.algorithms.worker_states import WorkerEvent, WorkerState, next_state
from rl_empathy.config.sections import DeadlinesConfig
from rl_empathy.errors import RoleTimeoutError, WeightSyncError
from rl_empathy.orchestration.fleet.calls import Role
from rl_empathy.orchestration.fleet.restarts import LOST, NOT_UP, RestartBudget

T = TypeVar("T")

LEAVING = ("draining", "stopped")
"""States of a worker that is taken away."""


@dataclass(eq=False)
class Worker:
    """One process in the place of a rollout worker; its successor is another object, which fences its answers."""

    role: Role
    incarnation: int = 1
    state: WorkerState = "stale"
    groups: int = 0
    """Under way."""
    has_served: bool = False
    is_joining: bool = False
    """Its first load is made by whoever started it, and not with a publish that comes meanwhile."""
    succeeded: bool = False
    """Dead, and another one is being started in its place."""

    def __str__(self) -> str:
        return f"{self.role.name} ({self.state})"

    @property
    def key(self) -> str:
        return f"{self.role.name}.{self.incarnation}"

    def move(self, event: WorkerEvent) -> None:
        self.state = next_state(self.state, event)


class Roster:
    """The workers by number; one that is lost is started anew while the others go on."""

    def __init__(
        self,
        roles: Sequence[Role],
        start: Callable[[str], Awaitable[Role]],
        join: Callable[[Worker], Awaitable[None]],
        deadlines: DeadlinesConfig,
        budget: RestartBudget,
        *,
        fixed: bool,
        tell: Callable[[str], None],
    ) -> None:
        """Take workers over that are up.

        Args:
            roles: The actors.
            start: Starts one of that name.
            join: Makes one that is new ready to serve.
            deadlines: Deadlines of the waits.
            budget: Budget of restarts.
            fixed: The workers stay as they are, none comes or goes: one that is lost ends the run.
            tell: Told of workers that come, go, or cannot be started.
        """
        self.workers = [Worker(role) for role in roles]
        self._minimum = len(self.workers)
        self._coming: set[str] = set()
        self._starts: dict[str, asyncio.Task[Any]] = {}
        self._others_first = 0
        self._processes = Counter(role.name for role in roles)
        self.logs = roles[0].log.parent
        self._start = start
        self._join = join
        self._deadlines = deadlines
        self._budget = budget
        self._fixed = fixed
        self._tell = tell
        self._changed = asyncio.Event()
        self._problem: Exception | None = None
        self._repairs: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Workers that are there, coming or being replaced, and stay; one whose restarts are spent keeps its place."""
        return len(self._coming) + sum(worker.state not in LEAVING for worker in self.workers)

    @property
    def _num_hoped_for(self) -> int:
        """As `len`, without those whose restarts are spent, and those whose start is being given up."""
        alive = sum(w.state not in (*LEAVING, "dead") or w.succeeded for w in self.workers)
        given_up = sum(start.cancelling() > 0 for start in self._starts.values())
        return len(self._coming) + alive - given_up

    def ready(self) -> list[Worker]:
        """Those that may serve now."""
        return [worker for worker in self.workers if worker.state == "ready"]

    def scale_to(self, count: int, reason: str) -> None:
        """Start or take away workers; this returns at once, and they come and go on their own.

        A new one is refitted before it serves; one that goes ends its groups first. What cannot be started within
        cluster.deadlines.start_s, since the cluster has no room, is told of and left, unless the run needs it.

        Args:
            count: Wanted.
            reason: Why, for the user.
        """
        self._minimum = min(self._minimum, count)
        here = sum(worker.state not in (*LEAVING, "dead") for worker in self.workers)
        may_go = [w for w in self.workers if w.state == "ready" or (w.state == "stale" and not w.is_joining)]
        may_go.sort(key=lambda worker: (worker.state == "ready", worker.groups))
        surplus = may_go[: max(0, here - count)]  # those that only come are not counted: they may not
        more = 0 if self._others_first else max(0, count - len(self))
        if surplus or more:
            self._tell(f"{len(self)} -> {count} rollout workers: {reason}")
        self._add_new(more)
        for worker in surplus:
            self._take_away(worker)

    async def start_first(self, name: str, start: Callable[[], Awaitable[T]]) -> T:
        """Start another role in the place of one that is lost, before any worker that the run does not need.

        A worker that only waits for a place would get that of the lost role, and the run stand still.

        Args:
            name: Name of the role.
            start: Starts it, and waits until it is up.

        Raises:
            RoleTimeoutError: It was not up in time: workers that serve make room for the next try.
        """
        needed = max(0, len(self._starts) - max(0, self._num_hoped_for - self._minimum))
        for worker, starting in list(self._starts.items())[needed:]:
            self._tell(f"{worker} is not started: {name} needs a place first")
            starting.cancel()
        self._others_first += 1
        try:
            return await start()
        except RoleTimeoutError:
            self.scale_to(self._minimum, f"{name} was not up in time, and may lack room")
            raise
        finally:
            self._others_first -= 1

    def replace_leaving(self, nodes: Collection[str]) -> None:
        """Have workers that are about to go end their groups, and others start in their place.

        Args:
            nodes: Ray's names of those that are about to go; a worker may be asked to go itself, too.
        """
        if self._fixed:
            return
        for worker in self.ready():
            if worker.role.node_id in nodes:
                reason = "is on a node that is about to go"
            elif worker.role.asked_to_go:
                reason = "was asked to go (SIGTERM)"
            else:
                continue
            self._tell(f"{worker.role} {reason}: it ends its groups, another one is started")
            self._take_away(worker)
            self._add_new(1)

    def lost(self, worker: Worker, error: Exception) -> None:
        """The first who notices that a worker is gone has another one put in its place."""
        if worker.state in ("dead", "stopped"):
            return
        was_leaving = worker.state == "draining"
        worker.move("die")
        if was_leaving:
            self._changed.set()
        elif self._fixed:
            self._problem = error
            self._changed.set()
        else:
            worker.succeeded = True
            self.repair(self._replace(worker, error))

    def kill(self) -> None:
        """End every worker at once, for good, and those that are being started."""
        for repair in self._repairs:
            repair.cancel()
        for worker in self.workers:
            worker.role.kill()

    def changed(self) -> None:
        """Have those who wait look again."""
        self._changed.set()

    def repair(self, work: Coroutine[Any, Any, None]) -> None:
        """Do work on the workers beside everything else; its failure is raised to whoever waits for workers."""

        async def repair() -> None:
            try:
                await work
            except Exception as error:  # see `until`
                self._tell(str(error))
                self._problem = error
                self._changed.set()

        task = asyncio.create_task(repair())
        self._repairs.add(task)
        task.add_done_callback(self._repairs.discard)

    async def until(self, condition: Callable[[], bool], wanted: int, doing: str) -> None:
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
            states = ", ".join(map(str, self.workers))
            raise RoleTimeoutError(
                f"to {doing}, the run waited {self._deadlines.workers_s:g} s for rollout workers "
                f"(cluster.deadlines.workers_s): {states or 'none is left'}. Their logs: {self.logs}"
            ) from None

    @property
    def has_enough(self) -> bool:
        """Whether the run may go on: as many are ready as it began with, or was scaled to since."""
        return len(self.ready()) >= self._minimum

    async def until_enough(self, doing: str, *, or_else: Callable[[], bool] = lambda: False) -> None:
        """Wait until there are enough, or until waiting has become useless."""
        await self.until(lambda: self.has_enough or or_else(), self._minimum, doing)

    async def next_change(self, seconds: float) -> None:
        """Wait until a worker has changed or a group has ended there, or for so many seconds."""
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    def _add_new(self, count: int) -> None:
        taken = self._coming | {worker.role.name for worker in self.workers}
        free = (name for i in itertools.count() if (name := f"rollout_worker_{i}") not in taken)
        for name in itertools.islice(free, max(0, count)):
            self._coming.add(name)
            self.repair(self._add(name))

    async def _replace(self, worker: Worker, error: Exception) -> None:
        name, lost_at = worker.role.name, asyncio.get_running_loop().time()
        worker.role.kill()
        try:
            self._budget.spend(name, error)
            with self._may_be_given_up(name):
                role = await self._start_as_needed(name, lost_at)
        except asyncio.CancelledError:  # another role needs the place
            self.workers.remove(worker)
            raise
        finally:
            worker.succeeded = False
        self.workers.remove(worker)
        await self._enter(role)

    async def _add(self, name: str) -> None:
        try:
            with self._may_be_given_up(name):
                role = await self._start_as_needed(name)
        finally:
            self._coming.discard(name)
        await self._enter(role)

    async def _enter(self, role: Role | None) -> None:
        """Have a worker that was started join the others; None: there is none."""
        if role is not None:
            worker = Worker(role, self._next_incarnation(role.name), is_joining=True)
            self.workers.append(worker)
            try:
                await self._join(worker)
                worker.is_joining = False
                return
            except WeightSyncError as error:
                worker.role.kill()  # whatever it holds, it would hold its CPUs too
                self.workers.remove(worker)
                if self._num_hoped_for < self._minimum:
                    raise
                self._tell(str(error))
        self._tell(f"Going on with {self._num_hoped_for} rollout workers")
        self._changed.set()

    async def _start_as_needed(self, name: str, failed_at: float | None = None) -> Role | None:
        """Start a worker, again as long as the run needs it and restarts are left; None: it goes without.

        Args:
            name: Name of the worker.
            failed_at: When the one before it was lost, if there was one.
        """
        clock = asyncio.get_running_loop().time
        while True:
            if self._others_first and self._num_hoped_for > self._minimum:
                self._tell(f"{name} is not started: another role needs a place first")
                return None
            try:
                role = await self._start(name)
            except NOT_UP as error:
                if self._num_hoped_for > self._minimum:
                    self._tell(str(error))
                    return None
                self._budget.spend(name, error)
                failed_at = failed_at or clock()
            else:
                if failed_at is not None:
                    self._budget.started(name, clock() - failed_at)
                return role

    @contextmanager
    def _may_be_given_up(self, name: str) -> Iterator[None]:
        """While a worker is being started, another role may need its place: see `start_first`."""
        if task := asyncio.current_task():
            self._starts[name] = task
        try:
            yield
        finally:
            del self._starts[name]

    def _next_incarnation(self, name: str) -> int:
        self._processes[name] += 1
        return self._processes[name]

    def _take_away(self, worker: Worker) -> None:
        worker.move("drain")
        self.repair(self._drain(worker))

    async def _drain(self, worker: Worker) -> None:
        """Let a worker end its groups, and end it; what is not done by the deadline of a group is sampled again."""
        try:
            async with asyncio.timeout(self._deadlines.sample_s):
                while worker.groups and worker.state != "dead":
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            self._tell(
                f"{worker.role} did not end its groups within {self._deadlines.sample_s:g} s "
                "(cluster.deadlines.sample_s): they are sampled again"
            )
        if worker.state == "draining":
            worker.move("stop")
        worker.role.kill()
        self.workers.remove(worker)
        self._changed.set()

    def _raise_problem(self, wanted: int) -> None:
        if self._problem and (self._num_hoped_for < wanted or not isinstance(self._problem, LOST)):
            raise self._problem

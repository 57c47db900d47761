"""The rollout workers come and go: they are lost and replaced, added and taken away."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rl_empathy.config.sections import DeadlinesConfig
from rl_empathy.errors import RoleTimeoutError, WeightSyncError
from rl_empathy.orchestration.fleet.calls import Role
from rl_empathy.orchestration.fleet.restarts import NOT_UP, RestartBudget
from rl_empathy.orchestration.fleet.workers.attendance import Attendance
from rl_empathy.orchestration.fleet.workers.worker import LEAVING, Worker

T = TypeVar("T")


class Roster:
    """The workers by name; one that is lost is started anew while the others go on."""

    def __init__(
        self,
        attendance: Attendance,
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
            attendance: The workers.
            start: Starts one of that name.
            join: Makes one that is new ready to serve.
            deadlines: Deadlines of the waits.
            budget: Budget of restarts.
            fixed: The workers stay as they are, none comes or goes: one that is lost ends the run.
            tell: Told of workers that come, go, or cannot be started.
        """
        self.attendance = attendance
        self._others_first = 0
        self._processes = Counter(worker.role.name for worker in attendance.workers)
        self._start = start
        self._join = join
        self._deadlines = deadlines
        self._budget = budget
        self._fixed = fixed
        self._tell = tell

    def scale_to(self, count: int, reason: str) -> None:
        """Start or take away workers; this returns at once, and they come and go on their own.

        A new one is refitted before it serves; one that goes ends its groups first. What cannot be started within
        cluster.deadlines.start_s, since the cluster has no room, is told of and left, unless the run needs it.

        Args:
            count: Wanted.
            reason: Why, for the user.
        """
        self.attendance.minimum = min(self.attendance.minimum, count)
        workers = self.attendance.workers
        here = sum(worker.state not in (*LEAVING, "dead") for worker in workers)
        may_go = [w for w in workers if w.state == "ready" or (w.state == "stale" and not w.is_joining)]
        may_go.sort(key=lambda worker: (worker.state == "ready", worker.num_groups))
        surplus = may_go[: max(0, here - count)]  # one that is not up yet cannot be taken away
        more = 0 if self._others_first else max(0, count - len(self.attendance))
        if surplus or more:
            self._tell(f"{len(self.attendance)} -> {count} rollout workers: {reason}")
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
        spare = max(0, self.attendance.num_hoped_for - self.attendance.minimum)
        needed = max(0, len(self.attendance.starts) - spare)
        for waiting, starting in list(self.attendance.starts.items())[needed:]:
            self._tell(f"{waiting} is not started: {name} needs a place first")
            starting.cancel()
        self._others_first += 1
        try:
            return await start()
        except RoleTimeoutError:
            self.scale_to(self.attendance.minimum, f"{name} was not up in time, and may lack room")
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
        for worker in self.attendance.ready():
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
            self.attendance.changed()
        elif self._fixed:
            self.attendance.changed(error)
        else:
            worker.is_being_replaced = True
            self.attendance.beside(self._replace(worker, error))

    def _add_new(self, count: int) -> None:
        taken = self.attendance.coming | {worker.role.name for worker in self.attendance.workers}
        free = (name for i in itertools.count() if (name := f"rollout_worker_{i}") not in taken)
        for name in itertools.islice(free, max(0, count)):
            self.attendance.coming.add(name)
            self.attendance.beside(self._add(name))

    async def _replace(self, worker: Worker, error: Exception) -> None:
        name, lost_at = worker.role.name, asyncio.get_running_loop().time()
        worker.role.kill()
        try:
            self._budget.spend(name, error)
            with self._may_be_given_up(name):
                role = await self._start_as_needed(name, lost_at)
        except asyncio.CancelledError:  # another role needs the place
            self.attendance.workers.remove(worker)
            raise
        finally:
            worker.is_being_replaced = False
        self.attendance.workers.remove(worker)
        await self._enter(role)

    async def _add(self, name: str) -> None:
        try:
            with self._may_be_given_up(name):
                role = await self._start_as_needed(name)
        finally:
            self.attendance.coming.discard(name)
        await self._enter(role)

    async def _enter(self, role: Role | None) -> None:
        """Have a worker that was started join the others; None: there is none."""
        if role is not None:
            worker = Worker(role, self._next_incarnation(role.name), is_joining=True)
            self.attendance.workers.append(worker)
            try:
                await self._join(worker)
                worker.is_joining = False
                return
            except WeightSyncError as error:
                worker.role.kill()  # whatever it holds, it would hold its CPUs too
                self.attendance.workers.remove(worker)
                if self.attendance.num_hoped_for < self.attendance.minimum:
                    raise
                self._tell(str(error))
        self._tell(f"Going on with {self.attendance.num_hoped_for} rollout workers")
        self.attendance.changed()

    async def _start_as_needed(self, name: str, failed_at: float | None = None) -> Role | None:
        """Start a worker, again as long as the run needs it and restarts are left; None: the run goes without it.

        Args:
            name: Name of the worker.
            failed_at: When the one before it was lost, if there was one.
        """
        clock = asyncio.get_running_loop().time
        while True:
            if self._others_first and self.attendance.num_hoped_for > self.attendance.minimum:
                self._tell(f"{name} is not started: another role needs a place first")
                return None
            try:
                role = await self._start(name)
            except NOT_UP as error:
                if self.attendance.num_hoped_for > self.attendance.minimum:
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
        task = asyncio.current_task()
        assert task is not None
        self.attendance.starts[name] = task
        try:
            yield
        finally:
            del self.attendance.starts[name]

    def _next_incarnation(self, name: str) -> int:
        self._processes[name] += 1
        return self._processes[name]

    def _take_away(self, worker: Worker) -> None:
        worker.move("drain")
        self.attendance.beside(self._drain(worker))

    async def _drain(self, worker: Worker) -> None:
        """Let a worker end its groups, and end it; what is not done by the deadline of a group is sampled again."""
        try:
            async with asyncio.timeout(self._deadlines.sample_s):
                while worker.num_groups and worker.state != "dead":
                    await self.attendance.next_change()
        except TimeoutError:
            self._tell(
                f"{worker.role} did not end its groups within {self._deadlines.sample_s:g} s "
                "(cluster.deadlines.sample_s): they are sampled again"
            )
        if worker.state == "draining":
            worker.move("stop")
        worker.role.kill()
        self.attendance.workers.remove(worker)
        self.attendance.changed()

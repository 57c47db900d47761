"""Which rollout workers there are, and waiting for them."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from rl_empathy.config.sections import DeadlinesConfig
from rl_empathy.errors import RoleTimeoutError
from rl_empathy.orchestration.fleet.calls import Role
from rl_empathy.orchestration.fleet.restarts import LOST
from rl_empathy.orchestration.fleet.workers.worker import LEAVING, Worker


class Attendance:
    """The workers that are there, and those that are coming."""

    def __init__(
        self, roles: Sequence[Role], deadlines: DeadlinesConfig, tell: Callable[[str], None]
    ) -> None:
        """Begin with workers that are up; the run needs as many.

        Args:
            roles: The actors.
            deadlines: Deadlines of the waits.
            tell: Told of what could not be done.
        """
        self.workers = [Worker(role) for role in roles]
        self.coming: set[str] = set()
        """Names of those that are new and not up yet."""
        self.starts: dict[str, asyncio.Task[Any]] = {}
        """By name, those that are being started and may be given up."""
        self.minimum = len(self.workers)
        """As many as the run began with, or fewer, where it was scaled below."""
        self.logs = roles[0].log.parent
        self._deadlines = deadlines
        self._tell = tell
        self._changed = asyncio.Event()
        self._problem: Exception | None = None
        self._work: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Workers that are there, coming or being replaced, and stay; one whose restarts are spent keeps its place."""
        return len(self.coming) + sum(worker.state not in LEAVING for worker in self.workers)

    @property
    def num_hoped_for(self) -> int:
        """As `len`, without those whose restarts are spent, and those whose start is being given up."""
        alive = sum(w.state not in (*LEAVING, "dead") or w.is_being_replaced for w in self.workers)
        given_up = sum(start.cancelling() > 0 for start in self.starts.values())
        return len(self.coming) + alive - given_up

    @property
    def has_enough(self) -> bool:
        """Whether the run may go on."""
        return len(self.ready()) >= self.minimum

    def ready(self) -> list[Worker]:
        """Those that may serve now."""
        return [worker for worker in self.workers if worker.state == "ready"]

    def changed(self, problem: Exception | None = None) -> None:
        """Have those who wait look again.

        Args:
            problem: A loss is raised to them where too few workers are left; anything else in any case.
        """
        if self.has_enough and isinstance(self._problem, LOST):
            self._problem = None  # made good since
        self._problem = problem or self._problem
        self._changed.set()

    def beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Do work on the workers beside everything else; its failure is raised to whoever waits for workers."""

        async def done() -> None:
            try:
                await work
            except Exception as error:  # see `until`
                self._tell(str(error))
                self.changed(error)

        task = asyncio.create_task(done())
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    def kill(self) -> None:
        """End every worker at once, for good, and those that are being started."""
        for task in self._work:
            task.cancel()
        for worker in self.workers:
            worker.role.kill()

    async def until(self, condition: Callable[[], bool], wanted: int, doing: str) -> None:
        """Wait for workers, as long as `wanted` of them are alive or being started anew.

        Args:
            condition: What is waited for.
            wanted: Workers without which waiting is useless.
            doing: What they are wanted for.

        Raises:
            RoleTimeoutError: It took longer than cluster.deadlines.workers_s.
            RlEmpathyError: Why too few workers are left.
        """
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

    async def until_enough(self, doing: str, *, or_else: Callable[[], bool] = lambda: False) -> None:
        """Wait until there are enough, or until waiting has become useless."""
        await self.until(lambda: self.has_enough or or_else(), self.minimum, doing)

    async def next_change(self, seconds: float | None = None) -> None:
        """Wait until a worker has changed or a group has ended there, or for so many seconds."""
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    def _raise_problem(self, wanted: int) -> None:
        if self._problem and (self.num_hoped_for < wanted or not isinstance(self._problem, LOST)):
            raise self._problem

"""Roles that die are started anew, within a budget."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Protocol, TypeVar

from rl_empathy.config.sections import RestartsConfig
from rl_empathy.errors import (
    ModelError,
    OutOfMemoryError,
    RoleDiedError,
    RoleTimeoutError,
    ScorerLostError,
)
from rl_empathy.orchestration.fleet.calls import Role
from rl_empathy.orchestration.fleet.savings import Savings

T = TypeVar("T")
LOST = (RoleDiedError, RoleTimeoutError)
"""What a call raises when its role is gone or does not answer."""
NOT_UP = (*LOST, ModelError)
"""What starting a role anew raises when the next try may succeed: the model could be loaded before, so what is in the
way now (memory, a file system) may pass.
"""
AT_ONCE = 4
"""Calls to a role at a time. The reward model works on them side by side; the reference model takes one after the
other, and a few wait at its door, so that it never stands still."""


class RestartBudget:
    """Counts the restarts of a run; when they are spent, the error that asked for one more ends it."""

    def __init__(
        self, config: RestartsConfig, tell: Callable[[str], None], savings: Savings | None = None
    ) -> None:
        """Nothing is spent yet.

        Args:
            config: Section cluster.restarts.
            tell: Told of every restart.
            savings: What is halved when a role runs out of memory; None: such a role is not started anew.
        """
        self._config = config
        self._tell = tell
        self._savings = savings
        self._spent: Counter[str] = Counter()
        self.seconds = 0.0
        """Spent on starting roles anew."""

    @property
    def total(self) -> int:
        """Restarts since this process began."""
        return self._spent.total()

    def spend(self, role: str, error: Exception) -> None:
        """Allow a restart of a role.

        Args:
            role: Its name.
            error: Why it must be started anew.

        Raises:
            OutOfMemoryError: It ran out of memory, and had done so before.
            RoleDiedError: The budget of the role, or of the run, is spent.
        """
        if isinstance(error, OutOfMemoryError):
            if self._savings is None:
                raise error
            self._tell(f"{error}\n{self._savings.ran_out(role, error)}")
            error = OutOfMemoryError(f"{role} ran out of memory")
        for key, count, limit in (
            ("each_role", self._spent[role], self._config.each_role),
            ("whole_run", self.total, self._config.whole_run),
        ):
            if count >= limit:
                raise RoleDiedError(
                    f"{error}. It is not started anew: cluster.restarts.{key} ({limit}) is spent; "
                    "the same command resumes the run from its last checkpoint"
                ) from error
        self._spent[role] += 1
        self._tell(f"{error}. Starting {role} anew (restart {self._spent[role]})")

    def started(self, role: str, seconds: float) -> None:
        """Count how long a role took to be up again."""
        self.seconds += seconds
        self._tell(f"{role} is up again after {seconds:.1f} s")


class Restarted(Protocol):
    """A role, or several processes that are one."""

    @property
    def name(self) -> str: ...

    def kill(self) -> None: ...


R = TypeVar("R", bound=Restarted)


async def start_anew(
    role: R, start: Callable[[], Awaitable[R]], budget: RestartBudget, error: Exception
) -> R:
    """End what is left of a role and start another in its place, as often as the budget allows.

    Args:
        role: The one that is lost.
        start: Starts another, and waits until it is up.
        budget: Budget of the run.
        error: How it was lost.

    Returns:
        The new one.

    Raises:
        RoleDiedError: The restarts are spent.
    """
    began = asyncio.get_running_loop().time()
    while True:
        role.kill()
        budget.spend(role.name, error)
        try:
            started = await start()
        except NOT_UP as again:
            error = again
            continue
        budget.started(role.name, asyncio.get_running_loop().time() - began)
        return started


class RestartableRole:
    """A role without a state of its own: when it is lost it is started anew, and its calls are made again.

    What a call brings may be what the role is lost of: a call that went with it `retries` times more is given up.
    """

    def __init__(
        self, role: Role, start: Callable[[], Awaitable[Role]], budget: RestartBudget, *, retries: int
    ) -> None:
        """Take over a role that is up.

        Args:
            role: The actor.
            start: Starts another one in its place.
            budget: Budget of the run.
            retries: How often a call that was lost with the role is made again.
        """
        self._role = role
        self._role.one_by_one = True
        self._start = start
        self._budget = budget
        self._retries = retries
        self._restart: asyncio.Task[None] | None = None
        self._places = asyncio.Semaphore(AT_ONCE)
        self._one_suspect = asyncio.Lock()
        self.has_answered = False
        """A call came back."""

    async def call(self, make: Callable[[Role], Awaitable[T]]) -> T:
        """Make a call, again after a restart.

        Args:
            make: Makes the call on a role, and waits for its answer.

        Raises:
            ScorerLostError: The role was lost with every try; it is up again.
            RoleDiedError: The restarts are spent.
            RlEmpathyError: What the role raised.
        """
        losses = 0
        async with self._places:
            while True:
                # One of several that went with the role may be the cause: made one by one, it stands alone.
                async with self._one_suspect if losses else nullcontext():
                    role = self._role
                    try:
                        answer = await make(role)
                        self.has_answered = True
                        return answer
                    except LOST as error:
                        losses += 1
                        await self._replace(role, error)
                        if losses > self._retries:
                            raise ScorerLostError(f"{error}. So it ended {losses} times") from error

    async def _replace(self, role: Role, error: Exception) -> None:
        """Wait until another one is up; who comes first has it started for all."""
        if self._restart is None and self._role is role:
            self._restart = asyncio.create_task(self._start_anew(error))
            # Heard here, too: every call may have been given up by the time at which it fails.
            self._restart.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        if self._restart is not None:
            # A lost trainer takes the calls with it, and each that is cancelled would cost one more restart.
            await asyncio.shield(self._restart)

    async def _start_anew(self, error: Exception) -> None:
        try:
            self._role = await start_anew(self._role, self._start, self._budget, error)
            self._role.one_by_one = True
        finally:
            self._restart = None

    def kill(self) -> None:
        """End the process at once, for good, and another one that is being started in its place."""
        if self._restart is not None:
            self._restart.cancel()
        self._role.kill()

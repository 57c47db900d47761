"""The tracker: W&B beside the run."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import ray

from rl_empathy.actors.tracker import Tracker
from rl_empathy.errors import RoleDiedError, RoleTimeoutError
from rl_empathy.orchestration.fleet.calls import Role
from rl_empathy.orchestration.fleet.references import hear_errors

TRACKER_S = 60
"""How long the tracker may take to start, and the end of a run waits for its files, seconds."""


class TrackerHandle:
    """The tracker; a sink of `MetricsLog` that never makes the run wait."""

    def __init__(self, actor: Any, tell: Callable[[str], None]) -> None:
        self._role = Role(name="tracker", actor=actor, log=Path("Ray's own worker logs"))
        self._tell = tell
        self._told = ""
        self._starting = asyncio.create_task(self._tell_problem())

    @classmethod
    def start(
        cls,
        folder: Path,
        name: str,
        project: str,
        mode: str,
        config: Mapping[str, Any],
        tell: Callable[[str], None],
    ) -> Self:
        """Start the tracker beside the run; the user hears of the first thing that W&B does not take."""
        actor: Any = ray.remote(Tracker)
        return cls(actor.options(num_cpus=0).remote(str(folder), name, project, mode, dict(config)), tell)

    def __call__(self, line: Mapping[str, Any]) -> None:
        hear_errors(self._role.actor.log.remote(dict(line)))  # `_tell_problem` tells of them

    async def finish(self) -> str:
        """The directory to sync; empty when nothing was recorded or the tracker is late (it never ends a run)."""
        await self._starting
        folder: str = await self._answer(self._role.actor.finish.remote(), doing="finish")
        await self._tell_problem()
        return folder

    async def _tell_problem(self) -> None:
        problem = await self._answer(self._role.actor.problem.remote(), doing="say how W&B does")
        if problem and problem != self._told:
            self._told = problem
            self._tell(f"{problem}; the run goes on, and metrics.jsonl has every number")

    async def _answer(self, reference: Any, *, doing: str) -> str:
        try:
            answer: str = await self._role.answer(reference, seconds=TRACKER_S, doing=doing)
            return answer
        except (RoleTimeoutError, RoleDiedError) as error:
            self._tell(f"{error}; metrics.jsonl has every number")
            return ""

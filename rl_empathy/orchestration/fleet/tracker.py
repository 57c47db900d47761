"""The tracker: W&B beside the run."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import ray

from rl_empathy.actors.tracker import Tracker
from rl_empathy.errors import RoleDiedError, RoleTimeoutError
from rl_empathy.orchestration.fleet.calls import Role

TRACKER_S = 60
"""How long the end of a run waits for the tracker's files, seconds."""


class TrackerHandle:
    """The tracker; a sink of `MetricsLog` that never makes the run wait."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    @classmethod
    def start(cls, folder: Path, name: str, project: str, mode: str, config: Mapping[str, Any]) -> Self:
        """Start the tracker beside the run; it answers when it is asked to finish."""
        actor: Any = ray.remote(Tracker)
        return cls(actor.options(num_cpus=0).remote(str(folder), name, project, mode, dict(config)))

    def __call__(self, line: Mapping[str, Any]) -> None:
        self._actor.log.remote(dict(line))

    async def finish(self) -> str:
        """The directory to sync; empty when nothing was recorded or the tracker is late (it never ends a run)."""
        role = Role(name="tracker", actor=self._actor, log=Path("Ray's own worker logs"))
        try:
            return await role.answer(self._actor.finish.remote(), seconds=TRACKER_S, doing="finish")
        except (RoleTimeoutError, RoleDiedError) as error:
            logging.getLogger(__name__).warning("%s; metrics.jsonl has every number", error)
            return ""

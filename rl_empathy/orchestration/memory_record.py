"""What the processes of a run hold at most, beside what the plan says that they take."""

import asyncio
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from ray.exceptions import RayError

from rl_empathy.config.plan import Plan, StagePlan
from rl_empathy.config.role_plans import STAGE_WORKER, RolePlan
from rl_empathy.observability.memory import GIB
from rl_empathy.orchestration.fleet.calls import Role
from rl_empathy.orchestration.ray_train import PEAK_FILES

LOOK_S = 10.0
"""For which a role may take to say what it held; one that is late or gone counts with what it said last."""


class MemoryRecord:
    """The roles that were started, and what each held at most."""

    def __init__(self) -> None:
        self._roles: list[Role] = []

    def add(self, role: Role) -> Role:
        """Count a role that was started, whatever becomes of it."""
        self._roles.append(role)
        return role

    async def look(self) -> None:
        """Ask every role that lives; to be called before any is ended."""
        await asyncio.gather(*(self._ask(role) for role in self._roles))

    async def stage_ended(
        self, plan: Plan | None, stage: str, folder: Path, tell: Callable[[str], None]
    ) -> dict[str, dict[str, float]]:
        """Put side by side what the roles of a stage were planned to hold and what they held at most.

        Args:
            plan: Plan of the run.
            stage: That has ended.
            folder: Folder of the stage, where a worker of Ray Train leaves what it held.
            tell: Told of it, in a line.

        Returns:
            Planned and held at most, GiB, by the names of the plan's roles; nothing of roles that did not say.
        """
        await self.look()
        planned = next((of for of in plan.stages if of.stage == stage), None) if plan else None
        record = self._of_stage(planned, folder) if planned else {}
        if record:
            roles = (f"{role} {of.get('planned_gib', '?')} / {of['held_gib']}" for role, of in record.items())
            tell(f"{stage}: memory, planned / held at most, GiB: {', '.join(roles)}")
        return record

    def _of_stage(self, plan: StagePlan, folder: Path) -> dict[str, dict[str, float]]:
        held: dict[str, int] = defaultdict(int)
        on_gpu: dict[str, int] = defaultdict(int)
        for role in self._roles:
            name = re.sub(r"_\d+$", "", role.name).replace("_", " ")
            held[name] = max(held[name], role.pulse.peak_bytes)
            on_gpu[name] = max(on_gpu[name], role.pulse.gpu_peak_bytes)
        for path in folder.glob(PEAK_FILES):
            of_host, of_gpu = map(int, path.read_text(encoding="ascii").split())
            held[STAGE_WORKER] = max(held[STAGE_WORKER], of_host)
            on_gpu[STAGE_WORKER] = max(on_gpu[STAGE_WORKER], of_gpu)
        return {
            role.role: _side_by_side(role, on_gpu[role.role] if role.num_gpus else held[role.role])
            for role in (*plan.roles, *plan.afterwards)
            if held[role.role]
        }

    async def _ask(self, role: Role) -> None:
        try:
            await role.take_pulse(LOOK_S)
        except RayError:
            return  # it is gone


def _side_by_side(plan: RolePlan, held: int) -> dict[str, float]:
    planned = {} if plan.memory_bytes is None else {"planned_gib": round(plan.memory_bytes / GIB, 2)}
    return {**planned, "held_gib": round(held / GIB, 2)}

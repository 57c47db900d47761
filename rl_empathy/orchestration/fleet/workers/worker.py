"""One process in the place of a rollout worker."""

from dataclasses import dataclass

from rl_empathy.orchestration.fleet.calls import Role
from rl_empathy.orchestration.fleet.workers.states import WorkerEvent, WorkerState, next_state

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

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
    num_groups: int = 0
    """Under way."""
    has_loaded: bool = False
    """A load came to its end here."""
    is_joining: bool = False
    """It was started a moment ago; a publish that comes meanwhile leaves its first load to whoever started it."""
    is_being_replaced: bool = False
    """It is dead, and another one is being started in its place."""

    def __str__(self) -> str:
        return f"{self.role.name} ({self.state})"

    @property
    def key(self) -> str:
        return f"{self.role.name}.{self.incarnation}"

    def move(self, event: WorkerEvent) -> None:
        self.state = next_state(self.state, event)

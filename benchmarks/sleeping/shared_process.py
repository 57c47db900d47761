"""Several workers in one process: their calls carry the worker's number."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import ray

from rl_empathy.orchestration.fleet.calls import Role


@dataclass(frozen=True)
class NumberedActor:
    """One of several workers that live in one process."""

    actor: Any
    number: int

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.actor, name)
        return method if name == "ready" else NumberedMethod(method, self.number)


@dataclass(frozen=True)
class NumberedMethod:
    method: Any
    number: int

    def options(self, **options: Any) -> "NumberedMethod":
        return NumberedMethod(self.method.options(**options), self.number)

    def remote(self, *arguments: Any) -> Any:
        return self.method.remote(self.number, *arguments)


class NumberedRole(Role):
    """A role that lives in a process with others."""

    def kill(self) -> None:
        """End the whole process."""
        ray.kill(self.actor.actor)


def numbered(host: Role, name: str) -> Role:
    """The worker `name` as a role of its own, in the process of the role `host`."""
    number = int(name.removeprefix("rollout_worker_"))
    settings = {f.name: getattr(host, f.name) for f in dataclasses.fields(host) if not f.name.startswith("_")}
    return NumberedRole(**settings | {"name": name, "actor": NumberedActor(host.actor, number)})

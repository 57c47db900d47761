"""Calls to actors and tasks, each of which ends: with an answer, an error of ours, or a deadline (C6)."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from rl_empathy.errors import RlEmpathyError, RoleDiedError, RoleTimeoutError


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What an actor of a role gets. Ray gives its process as many OpenMP threads as CPUs."""

    num_cpus: float
    num_gpus: float
    max_concurrency: int = 1


async def run_task(
    function: Callable[..., Any], *arguments: Any, resources: Resources, seconds: float, doing: str
) -> Any:
    """Run a function in a process of the cluster and wait for its result.

    Raises:
        RoleTimeoutError: It took longer than `seconds`.
    """
    task = ray.remote(function).options(
        num_cpus=resources.num_cpus,
        num_gpus=resources.num_gpus,
        max_retries=0,
    )
    role = Role(name=f"the task to {doing}", actor=None, log=Path("Ray's own worker logs"))
    return await role.answer(task.remote(*arguments), seconds=seconds, doing="finish")


async def start_roles(
    actor_class: type,
    arguments: Mapping[str, Sequence[Any]],
    resources: Resources,
    logs: Path,
    *,
    start_s: float,
    **settings: Any,
) -> list["Role"]:
    """Start actors of one class and wait until each is up.

    Args:
        actor_class: A plain class of `actors/`; its last positional argument is the path of its log.
        arguments: Positional arguments by role name; one actor each.
        resources: Of each actor.
        logs: Folder of the log files.
        start_s: Deadline.
        **settings: Keyword arguments, the same for all.

    Returns:
        The roles, in order.
    """
    remote: Any = ray.remote(actor_class)
    roles = []
    for name, values in arguments.items():
        log = logs / f"{name}.log"
        options = remote.options(
            num_cpus=resources.num_cpus,
            num_gpus=resources.num_gpus,
            max_concurrency=resources.max_concurrency,
        )
        roles.append(Role(name=name, actor=options.remote(*values, str(log), **settings), log=log))
    nodes = await asyncio.gather(
        *(role.answer(role.actor.ready.remote(), seconds=start_s, doing="start") for role in roles)
    )
    return [replace(role, node=node) for role, node in zip(roles, nodes, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Role:
    """An actor with a name and a log; every call to it ends."""

    name: str
    actor: Any
    log: Path
    node: str = ""
    """Known once it is up."""

    def __str__(self) -> str:
        return f"{self.name} on node {self.node}" if self.node else self.name

    def kill(self) -> None:
        """End the actor's process at once."""
        ray.kill(self.actor)

    async def answer(self, reference: "Awaitable[Any]", *, seconds: float, doing: str) -> Any:
        """Wait for a call.

        Raises:
            RoleTimeoutError: It took too long.
            RoleDiedError: The actor's process is gone.
            RlEmpathyError: What the actor raised, in its constructor too.
        """
        try:
            return await asyncio.wait_for(asyncio.ensure_future(reference), seconds)
        except RayTaskError as error:  # before TimeoutError, whose class a task's own error may have as well
            if isinstance(error.cause, RoleDiedError):
                raise RoleDiedError(f"{self}, to {doing}: {error.cause}. Its log: {self.log}") from error
            if isinstance(error.cause, RlEmpathyError):
                raise error.cause from error
            raise
        except TimeoutError as error:
            raise RoleTimeoutError(
                f"{self} did not {doing} within {seconds:g} s. Its log: {self.log}. "
                "If the machine is merely slow, raise cluster.deadlines"
            ) from error
        except RayActorError as error:
            if raised := _raised_in_constructor(error):
                raise raised from error
            raise RoleDiedError(
                f"{self} died while it was to {doing}: {error}. Its log: {self.log}"
            ) from error
        except RayError as error:
            raise RoleDiedError(f"{self}, to {doing}: {error}. Its log: {self.log}") from error


def _raised_in_constructor(error: RayActorError) -> RlEmpathyError | None:
    """Ray makes the error of an actor that failed at its start from the task error, and keeps it as an argument."""
    cause = getattr(error.args[0], "cause", None) if error.args else None
    return cause if isinstance(cause, RlEmpathyError) else None

"""Calls to actors and tasks, each of which ends: with an answer, an error of ours, or a deadline."""

import asyncio
import faulthandler
import platform
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from rl_empathy.config.sections import DeadlinesConfig
from rl_empathy.errors import RoleDiedError, RoleTimeoutError
from rl_empathy.observability.memory import GIB, KernelKills
from rl_empathy.orchestration.fleet.deaths import in_our_words
from rl_empathy.orchestration.fleet.references import first_of, future_of
from rl_empathy.types import Pulse

HEALTH = "health"
"""The concurrency group in which every actor answers that it is alive."""
BESIDE = "beside"
"""The concurrency group in which an actor does what does not keep it from its work."""
PULSES = 12
"""How often a role is asked within cluster.deadlines.health_s."""
STACKS_S = 2.0
"""For which a role that is late may write where its threads are."""
KERNEL_KILLS = KernelKills()
"""Kills for memory on the driver's machine."""


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


async def start_role(
    name: str,
    actor_class: type,
    *arguments: Any,
    resources: Resources,
    logs: Path,
    deadlines: DeadlinesConfig,
    **settings: Any,
) -> "Role":
    """Start an actor and wait until it is up.

    Args:
        name: Name of the role.
        actor_class: A plain class of `actors/`; its last positional argument is the path of its log.
        *arguments: The positional arguments before it.
        resources: Resources of the actor.
        logs: Folder of the log file.
        deadlines: Until it is up, and until it answers that it is alive.
        **settings: Keyword arguments.

    Raises:
        RoleTimeoutError: It was not up in time; nothing is left of it.
        RoleDiedError: It died at its start.
        RlEmpathyError: What its constructor raised.
    """
    remote: Any = ray.remote
    options = remote(
        num_cpus=resources.num_cpus,
        num_gpus=resources.num_gpus,
        max_concurrency=resources.max_concurrency,
        concurrency_groups={HEALTH: 1, BESIDE: 1},  # threads that answer while the role works
    )
    log = logs / f"{name}.log"
    actor = options(actor_class).remote(*arguments, str(log), **settings)
    role = Role(name=name, actor=actor, log=log)
    try:
        pulse = await role.answer(actor.ready.remote(), seconds=deadlines.start_s, doing="start")
        role.node, role.pulse = pulse.node, pulse
        node_id = actor.__ray_call__.remote(_node_id)
        role.node_id = await role.answer(node_id, seconds=deadlines.start_s, doing="say where it is")
    except BaseException as error:
        role.kill()
        if isinstance(error, RoleTimeoutError) and not role.node:
            raise RoleTimeoutError(f"{error}. {_room_for(resources)}") from error
        raise
    role.health_s = deadlines.health_s
    return role


@dataclass(eq=False, kw_only=True)
class Role:
    """An actor with a name and a log; every call to it ends."""

    name: str
    actor: Any
    log: Path
    node: str = ""
    """Known once it is up."""
    node_id: str = ""
    """Ray's name of the node; likewise."""
    health_s: float | None = None
    """A role at work that does not answer `ready` for so long is taken for dead; None: it is not asked (yet)."""
    asked_to_go: bool = False
    """Its process got SIGTERM, and works on; known from its pulse."""
    pulse: Pulse = field(default_factory=partial(Pulse, ""))
    """The last one."""
    one_by_one: bool = False
    """It takes one call after the other, in their order, and while one waits at its door no deadline runs."""
    _calls: "list[asyncio.Future[Any]]" = field(default_factory=list)
    """The calls that a role which takes them one by one has not answered, given up or not."""
    _waiting: int = 0
    _pulse: "asyncio.Task[None] | None" = None

    def __str__(self) -> str:
        return f"{self.name} on node {self.node}" if self.node else self.name

    def kill(self) -> None:
        """End the actor's process at once, a hanging one too."""
        ray.kill(self.actor)

    async def answer(self, reference: "Awaitable[Any]", *, seconds: float, doing: str) -> Any:
        """Wait for a call, and listen to the role's pulse meanwhile.

        Raises:
            RoleTimeoutError: It took too long.
            RoleDiedError: The actor's process is gone, or does not answer that it is alive.
            PayloadLostError: What it should work on is gone.
            RlEmpathyError: What the actor raised, in its constructor too.
        """
        call = future_of(reference)
        ahead = self._line_up(call)
        try:
            with self._listened() as pulse:
                await first_of(call, pulse, ahead, seconds)
                silent = any(task.done() for task in pulse)
            if call.done():
                return call.result()
        except RayError as error:
            kernel = self._ended_by_kernel() if isinstance(error, RayActorError) else None
            ours = in_our_words(error, role=str(self), doing=doing, log=self.log, kernel=kernel)
            if ours is None:
                raise
            raise ours from error
        finally:
            if not self.one_by_one:
                call.cancel()
        if silent:
            raise RoleDiedError(
                f"{self}, while it was to {doing}, did not answer within {self.health_s:g} s that it is alive "
                f"(cluster.deadlines.health_s). Its log: {self.log}"
            )
        where = ", with the place of every thread" if await self._wrote_stacks() else ""
        raise RoleTimeoutError(
            f"{self} did not {doing} within {seconds:g} s. Its log{where}: {self.log}. "
            "If the machine is merely slow, raise cluster.deadlines"
        )

    def _ended_by_kernel(self) -> str | None:
        """How, where the kernel ended it since memory was full. Known on the driver's machine only; Ray's own monitor,
        of which there is one on every node, is mostly there before.
        """
        if not self.node or self.node != platform.node() or not KERNEL_KILLS.one_more():
            return None
        return (
            f"the kernel ended it, since memory was full; it last held {self.pulse.held_bytes / GIB:.1f} GiB"
        )

    def _line_up(self, call: "asyncio.Future[Any]") -> "list[asyncio.Future[Any]]":
        """The calls that the role takes before this one; one that nobody waits for any more is taken as well."""
        if not self.one_by_one:
            return []
        ahead = [other for other in self._calls if not other.done()]
        self._calls = [*ahead, call]
        call.add_done_callback(lambda done: done.cancelled() or done.exception())  # heard, if it was given up
        return ahead

    async def _wrote_stacks(self) -> bool:
        """Have a role that is late, but alive, write into its log where its threads are."""
        if self.health_s is None:
            return False
        stacks = self.actor.__ray_call__.options(concurrency_group=HEALTH).remote(_write_stacks)
        with suppress(TimeoutError, RayError):
            async with asyncio.timeout(STACKS_S):
                await future_of(stacks)
                return True
        return False

    @contextmanager
    def _listened(self) -> "Iterator[list[asyncio.Task[None]]]":
        """One pulse for all who wait for this role; it stops with the last of them."""
        if self.health_s is None:
            yield []
            return
        if self._pulse is None or self._pulse.done():
            self._pulse = asyncio.create_task(self._until_silent(self.health_s))
        self._waiting += 1
        try:
            yield [self._pulse]
        finally:
            self._waiting -= 1
            if self._waiting == 0:
                self._pulse.cancel()
                self._pulse = None

    async def _until_silent(self, seconds: float) -> None:
        """Ask again and again whether the role is alive; return when it does not answer."""
        while True:
            await asyncio.sleep(seconds / PULSES)
            try:
                if not await self.take_pulse(seconds):
                    return
            except RayError:
                await asyncio.sleep(seconds)  # the call that is waited for raises it as well, and says more
                return

    @property
    def is_waited_for(self) -> bool:
        """A call is under way; its pulse is taken then."""
        return self._waiting > 0

    async def take_pulse(self, seconds: float) -> bool:
        """Ask whether the role is alive: whether it answered in time.

        Raises:
            RayError: Its process is gone.
        """
        alive = self.actor.ready.options(concurrency_group=HEALTH).remote()
        try:
            async with asyncio.timeout(
                seconds
            ):  # wait_for would swallow a cancellation that comes with the answer
                pulse = await future_of(alive)
        except TimeoutError:
            return False
        self.pulse, self.asked_to_go = pulse, pulse.asked_to_go
        return True


def _room_for(resources: Resources) -> str:
    """What a role asks for against what is free, for one that did not start."""
    try:
        free = ray.available_resources()
    except RayError as error:
        return f"What is free in the cluster is not known: {error}"
    return (
        f"If it found no place: it asks for {resources.num_cpus:g} CPUs and {resources.num_gpus:g} GPUs on one node; "
        f"free in the cluster are {free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs"
    )


def draining_nodes() -> set[str]:
    """Ray's names of the nodes that are about to go: taken back by a cloud, idle, or drained by hand."""
    return set(ray._private.state.state.get_draining_nodes())


def _write_stacks(_actor: Any) -> None:
    faulthandler.dump_traceback(file=2)  # the role's log


def _node_id(_actor: Any) -> str:
    return ray.get_runtime_context().get_node_id()

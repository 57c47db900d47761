"""The rollout workers, seen as one: who samples what, and which weights they hold."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

from rl_empathy.config.sections import DeadlinesConfig, SamplingConfig
from rl_empathy.errors import (
    RoleDiedError,
    VoidedError,
)
from rl_empathy.orchestration.fleet.calls import Role, draining_nodes
from rl_empathy.orchestration.fleet.group_handle import GroupHandle
from rl_empathy.orchestration.fleet.loads import Offer, OfferAnew
from rl_empathy.orchestration.fleet.references import hear_errors
from rl_empathy.orchestration.fleet.restarts import LOST, RestartBudget
from rl_empathy.orchestration.fleet.workers.attendance import Attendance
from rl_empathy.orchestration.fleet.workers.refits import Refits
from rl_empathy.orchestration.fleet.workers.roster import Roster
from rl_empathy.orchestration.fleet.workers.worker import Worker
from rl_empathy.types import Prompt, RolloutGroup

MOST_VOIDED = 20
"""Times that workers which go on may give a group up: whole loads are rare, so something is wrong with it."""
QUEUE = 2
"""A worker gets so many times the groups that it runs at once: it never stands still, and none uses up its deadline
in the worker's queue when few workers are left for many groups.
"""
WATCH_S = 2.0
"""A cloud tells of a node that it takes back half a minute or more before."""


class RolloutWorkers:
    """All rollout workers: `sample` goes to one that is ready, `load` to every one that lives.

    One that is lost is started anew while the others go on, and is refitted with what is published before it
    serves; a prompt that was under way there is sampled elsewhere. Loads and refits never overlap.
    """

    def __init__(
        self,
        roles: Sequence[Role],
        start: Callable[[str], Awaitable[Role]],
        deadlines: DeadlinesConfig,
        budget: RestartBudget,
        *,
        max_running_sequences: Callable[[], int],
        seed: int,
        in_step: bool,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Take workers over that are up.

        Args:
            roles: The actors.
            start: Starts one of that name anew.
            deadlines: Deadlines of the calls.
            budget: Budget of restarts.
            max_running_sequences: Completions that a worker writes at a time; more wait at its door. Asked each time.
            seed: The run's; a request's seed follows from it and the occurrence.
            in_step: Worker = index of the prompt modulo workers, and a worker begins only when its whole share of a
                cohort is there (deterministic runs): there a lost worker ends the run, which can be resumed.
                Otherwise the one with the fewest groups under way is asked.
            tell: Told of workers that miss a publish, come, go, or cannot be started.
        """
        self.attendance = Attendance(roles, deadlines, tell)
        self._refits = Refits(self.attendance, self._lost, deadlines, spares_late=not in_step, tell=tell)
        self.roster = Roster(
            self.attendance, start, self._refits.join, deadlines, budget, fixed=in_step, tell=tell
        )
        self._deadlines = deadlines
        self._max_running_sequences = max_running_sequences
        self._seed = seed
        self._in_step = in_step

    @property
    def num_ready(self) -> int:
        """Workers that may serve now."""
        return len(self.attendance.ready())

    @property
    def num_expected(self) -> int:
        """Workers that are there or coming, and stay."""
        return len(self.attendance)

    async def sample(
        self,
        prompt: Prompt,
        *,
        sampling: SamplingConfig,
        group_size: int,
        cohort: Sequence[Prompt] = (),
        lost: Callable[[], None] = lambda: None,
    ) -> GroupHandle:
        """Have a group written, by another worker when one is lost.

        Args:
            prompt: What to answer.
            sampling: Temperature and length.
            group_size: Completions wanted.
            cohort: The prompts that start together with this one.
            lost: Told whenever the group was lost and begins anew.

        Raises:
            RoleTimeoutError: For cluster.deadlines.workers_s no worker was ready.
            RoleDiedError: The restarts are spent and no worker is left, or one after the other gave the group up.
        """
        doing = f"sample the group of prompt {prompt.row.id}"
        voided = 0
        while True:
            worker, together = await self._choose(prompt, group_size, cohort, doing)
            worker.num_groups += 1
            try:
                header, payload = worker.role.actor.sample.options(num_returns=2).remote(
                    prompt, sampling, group_size, self._request_seed(prompt), together
                )
                hear_errors(header, payload)
                header = await worker.role.answer(header, seconds=self._deadlines.sample_s, doing=doing)
                return GroupHandle(header=header, payload=payload)
            except LOST as error:
                self.roster.lost(worker, error)
            except VoidedError as error:  # the worker goes on
                voided += 1
                if voided == MOST_VOIDED:
                    raise RoleDiedError(f"{error}. So it ended {voided} times") from error
            finally:
                worker.num_groups -= 1
                self.attendance.changed()  # one that drains may be done
            lost()

    async def load(self, offer: Offer, anew: OfferAnew | None = None) -> dict[str, dict[str, float]]:
        """Have every worker load a version; see `Refits.load`."""
        return await self._refits.load(offer, anew)

    def kill(self) -> None:
        """End every worker at once, for good."""
        self.attendance.kill()

    def _lost(self, worker: Worker, error: Exception) -> None:  # the roster is made after the refits
        self.roster.lost(worker, error)

    async def payload(self, group: GroupHandle) -> RolloutGroup:
        """Fetch a payload into this process, which then reads the text."""
        doing = f"hand over the group of {group.header.row_id}"
        node = Role(name=f"the node of {group.header.worker}", actor=None, log=self.attendance.logs)
        return await node.answer(group.payload, seconds=self._deadlines.sample_s, doing=doing)

    async def watch(self) -> None:
        """Replace workers that are going to be taken away, before they are.

        Raises:
            TrainerLostError: What a new worker has to load is gone, with the trainer's node. Nothing else might tell:
                where no worker is left there is nothing to train, and no call to the trainer.
        """
        while True:
            idle = [worker.role for worker in self.attendance.ready() if not worker.role.is_waited_for]
            # One that is gone or hangs is noticed by the next call to it.
            await asyncio.gather(*(role.take_pulse(WATCH_S) for role in idle), return_exceptions=True)
            self.roster.replace_leaving(await self._nodes_to_leave())
            await asyncio.sleep(WATCH_S)
            self._refits.raise_if_lost()

    async def _nodes_to_leave(self) -> set[str]:
        # On a thread: the loop must not stand still when Ray's control store is slow to answer.
        try:
            async with asyncio.timeout(self._deadlines.health_s):
                return await asyncio.to_thread(draining_nodes)
        except TimeoutError:
            return set()  # asked again in a moment; a control store that is gone ends every call

    async def _choose(
        self, prompt: Prompt, group_size: int, cohort: Sequence[Prompt], doing: str
    ) -> tuple[Worker, int]:
        """Who writes the group, and how many groups that worker has to have before it begins."""
        if self._in_step:
            workers = self.attendance.workers  # their number never changes here
            number = prompt.occurrence.index % len(workers)
            await self.attendance.until(lambda: workers[number].state == "ready", len(workers), doing)
            return workers[number], sum(p.occurrence.index % len(workers) == number for p in cohort)
        most = QUEUE * max(1, self._max_running_sequences() // group_size)
        while True:
            await self.attendance.until(lambda: self.num_ready > 0, 1, doing)
            least = min(self.attendance.ready(), key=lambda worker: worker.num_groups)
            if least.num_groups < most:
                return least, 1
            # No longer than this: by then a group ends, or its worker is lost.
            await self.attendance.next_change(self._deadlines.sample_s)

    def _request_seed(self, prompt: Prompt) -> int:
        return random.Random(f"{self._seed}/{prompt.occurrence}").getrandbits(31)

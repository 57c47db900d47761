"""The rollout workers, seen as one: who samples what, and which weights they hold."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Sequence

from rl_empathy.config.sections import DeadlinesConfig, SamplingConfig
from rl_empathy.errors import (
    PayloadLostError,
    RoleDiedError,
    RoleTimeoutError,
    TrainerLostError,
    VoidedError,
    WeightSyncError,
)
from rl_empathy.orchestration.fleet.calls import Role, draining_nodes
from rl_empathy.orchestration.fleet.group_handle import GroupHandle
from rl_empathy.orchestration.fleet.loads import Load, Offer, OfferAnew
from rl_empathy.orchestration.fleet.references import hear_errors
from rl_empathy.orchestration.fleet.restarts import LOST, RestartBudget
from rl_empathy.orchestration.fleet.roster import Roster, Worker
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
        max_running_sequences: int,
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
            max_running_sequences: Completions that a worker writes at a time; more wait at its door.
            seed: The run's; a request's seed follows from it and the occurrence.
            in_step: Worker = index of the prompt modulo workers, and a worker begins only when its whole share of a
                cohort is there (deterministic runs): there a lost worker ends the run, which can be resumed.
                Otherwise the one with the fewest groups under way is asked.
            tell: Told of workers that miss a publish, come, go, or cannot be started.
        """
        self.roster = Roster(roles, start, self._join, deadlines, budget, fixed=in_step, tell=tell)
        self._deadlines = deadlines
        self._max_running_sequences = max_running_sequences
        self._seed = seed
        self._in_step = in_step
        self._tell = tell
        self._load: Load | None = None
        self._anew: OfferAnew | None = None
        self._load_lost: PayloadLostError | TrainerLostError | None = None
        self._load_numbers = itertools.count()
        self._loading = asyncio.Lock()
        self._turn = asyncio.Lock()

    @property
    def num_ready(self) -> int:
        """Workers that may serve now."""
        return len(self.roster.ready())

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
            worker.groups += 1
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
                worker.groups -= 1
                self.roster.changed()  # one that drains may be done
            lost()

    async def load(self, offer: Offer, anew: OfferAnew | None = None) -> dict[str, dict[str, float]]:
        """Have every worker load a version; one that is late or lost follows on its own.

        Args:
            offer: The weights; kept until every worker has loaded them.
            anew: Asked for weights by a worker that comes later; None: the offer is kept for it.

        Returns:
            Pause and busy seconds of each worker that loaded it in time, by a name of its process.

        Raises:
            WeightSyncError: A worker holds another version afterwards, or one that is new cannot load it.
            PayloadLostError: The weights are gone, with the node that had them.
            RoleTimeoutError: Fewer than cluster.rollout_workers.min are ready after cluster.deadlines.workers_s.
        """
        async with self._loading:
            load = Load(next(self._load_numbers), offer)
            self._load, self._anew, self._load_lost = load, anew, None
            living = [
                worker
                for worker in self.roster.workers
                if worker.state in ("stale", "ready") and not worker.is_joining
            ]
            refits = (self._refit(worker, load) for worker in living)
            reports = await asyncio.gather(*refits, return_exceptions=True)  # none goes on when another fails
            if None not in reports:  # what one could not load its successor loads
                self._let_go()
        stats = {}
        for worker, report in zip(living, reports, strict=True):
            if isinstance(report, BaseException):
                raise report
            if report is not None:
                stats[worker.key] = report
        doing = f"load policy version {offer.version}"
        await self.roster.until_enough(doing, or_else=lambda: self._load_lost is not None)
        self._raise_if_load_is_lost()
        return stats

    def kill(self) -> None:
        """End every worker at once, for good."""
        self.roster.kill()

    async def payload(self, group: GroupHandle) -> RolloutGroup:
        """Fetch a payload into this process, for evaluation."""
        doing = f"hand over the group of {group.header.row_id}"
        node = Role(name=f"the node of {group.header.worker}", actor=None, log=self.roster.logs)
        return await node.answer(group.payload, seconds=self._deadlines.sample_s, doing=doing)

    async def watch(self) -> None:
        """Replace workers that are going to be taken away, before they are.

        Raises:
            TrainerLostError: What a new worker has to load is gone, with the trainer's node. Nothing else might tell:
                where no worker is left there is nothing to train, and no call to the trainer.
        """
        while True:
            idle = [worker.role for worker in self.roster.ready() if not worker.role.is_waited_for]
            # One that is gone or hangs is noticed by the next call to it.
            await asyncio.gather(*(role.take_pulse(WATCH_S) for role in idle), return_exceptions=True)
            self.roster.replace_leaving(await self._nodes_to_leave())
            await asyncio.sleep(WATCH_S)
            self._raise_if_load_is_lost()

    def _raise_if_load_is_lost(self) -> None:
        if isinstance(self._load_lost, TrainerLostError):
            raise self._load_lost
        if self._load_lost:
            raise TrainerLostError(
                f"the published weights are gone with their node: {self._load_lost}"
            ) from self._load_lost

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
        if self._in_step:
            workers = self.roster.workers  # their number never changes here
            number = prompt.occurrence.index % len(workers)
            await self.roster.until(lambda: workers[number].state == "ready", len(workers), doing)
            return workers[number], sum(p.occurrence.index % len(workers) == number for p in cohort)
        most = QUEUE * max(1, self._max_running_sequences // group_size)
        while True:
            await self.roster.until(lambda: self.num_ready > 0, 1, doing)
            least = min(self.roster.ready(), key=lambda worker: worker.groups)
            if least.groups < most:
                return least, 1
            # No longer than this: by then a group ends, or its worker is lost.
            await self.roster.next_change(self._deadlines.sample_s)

    def _request_seed(self, prompt: Prompt) -> int:
        return random.Random(f"{self._seed}/{prompt.occurrence}").getrandbits(31)

    async def _refit(self, worker: Worker, load: Load) -> dict[str, float] | None:
        """Have a worker load what is published: its report, or None when it is late or lost."""
        if worker.state not in ("stale", "ready"):  # lost, or told to go, a moment ago
            return None
        whole = worker.state == "stale"
        worker.move("load")
        try:
            # A call takes this process a millisecond, and there are hundreds: what else is due goes in between.
            async with self._turn:
                asked = load.offer.deliver(worker.role, whole, load.number)
                await asyncio.sleep(0)
            held, stats = await worker.role.answer(
                asked,
                seconds=self._deadlines.publish_s,
                doing=f"load policy version {load.offer.version}",
            )
        except LOST as error:
            late = isinstance(error, RoleTimeoutError) and not whole and not self._in_step
            if late and worker.state == "loading":
                worker.move("miss")
                self._tell(f"{error}. It gets no prompts until it was refitted")
                self.roster.repair(self._join(worker))
            else:
                self.roster.lost(worker, error)
            return None
        except WeightSyncError as error:
            if not worker.has_served:  # a new one that cannot load what is published: nor will the next
                worker.move("die")
                worker.role.kill()
                raise WeightSyncError(f"{worker.role}: {error}. Its log: {worker.role.log}") from error
            self.roster.lost(worker, error)
            return None
        except (asyncio.CancelledError, PayloadLostError):
            if worker.state == "loading":  # nobody knows what it holds
                worker.move("miss")
            raise
        if held != load.offer.version:
            raise WeightSyncError(
                f"{worker} holds version {held} after the publish of {load.offer.version}: {worker.role.log}"
            )
        if worker.state == "loading":  # else it was lost meanwhile
            worker.move("loaded")
            worker.has_served = True
            self.roster.changed()
        return stats  # type: ignore[no-any-return]

    async def _join(self, worker: Worker) -> None:
        async with self._loading:
            if worker.state != "stale":
                return
            try:
                load = self._load or await self._load_anew()
                if load is not None:
                    await self._refit(worker, load)
            except (PayloadLostError, TrainerLostError) as error:
                self._load_lost = error  # the next publish brings others, if there is one: see `watch`
                self.roster.changed()
            self._let_go()

    def _let_go(self) -> None:
        """Have the object store forget the weights that every worker has loaded, if more can be asked for.

        While the run lacks workers they stay: those that come next are waited for.
        """
        late = any(worker.state in ("stale", "loading") for worker in self.roster.workers)
        if self._anew and self.roster.has_enough and not late:
            self._load = None

    async def _load_anew(self) -> Load | None:
        offered = await self._anew() if self._anew else None
        if offered is None:  # the first publish of the next trainer counts this worker in
            return None
        self._load = Load(next(self._load_numbers), offered)
        return self._load

"""Which weights the rollout workers hold: a publish reaches every one that lives, and those that come later follow."""

import asyncio
import itertools
from collections.abc import Callable

from rl_empathy.config.sections import DeadlinesConfig
from rl_empathy.errors import PayloadLostError, RoleTimeoutError, TrainerLostError, WeightSyncError
from rl_empathy.orchestration.fleet.loads import Load, Offer, OfferAnew
from rl_empathy.orchestration.fleet.restarts import LOST
from rl_empathy.orchestration.fleet.workers.attendance import Attendance
from rl_empathy.orchestration.fleet.workers.worker import Worker


class Refits:
    """Loads what is published into workers; loads and refits never overlap."""

    def __init__(
        self,
        attendance: Attendance,
        lost: Callable[[Worker, Exception], None],
        deadlines: DeadlinesConfig,
        *,
        spares_late: bool,
        tell: Callable[[str], None],
    ) -> None:
        """Nothing is published yet.

        Args:
            attendance: The workers.
            lost: Told of one that is gone.
            deadlines: Deadlines of the calls.
            spares_late: A worker that misses a publish is refitted beside the others, unless it had to load all of
                it; otherwise it counts as gone.
            tell: Told of workers that miss a publish.
        """
        self._attendance = attendance
        self._lost = lost
        self._deadlines = deadlines
        self._spares_late = spares_late
        self._tell = tell
        self._load: Load | None = None
        self._anew: OfferAnew | None = None
        self._load_lost: PayloadLostError | TrainerLostError | None = None
        self._numbers = itertools.count()
        self._loading = asyncio.Lock()
        self._turn = asyncio.Lock()

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
            RoleTimeoutError: Too few are ready after cluster.deadlines.workers_s.
        """
        async with self._loading:
            load = Load(next(self._numbers), offer)
            self._load, self._anew, self._load_lost = load, anew, None
            living = [
                worker
                for worker in self._attendance.workers
                if worker.state in ("stale", "ready") and not worker.is_joining
            ]
            refits = (self._refit(worker, load) for worker in living)
            reports = await asyncio.gather(
                *refits, return_exceptions=True
            )  # so that none still loads after a raise
            if None not in reports:  # one that is late or lost, or its successor, has yet to load it
                self._let_go()
        stats = {}
        for worker, report in zip(living, reports, strict=True):
            if isinstance(report, BaseException):
                raise report
            if report is not None:
                stats[worker.key] = report
        doing = f"load policy version {offer.version}"
        await self._attendance.until_enough(doing, or_else=lambda: self._load_lost is not None)
        self.raise_if_lost()
        return stats

    async def join(self, worker: Worker) -> None:
        """Have a worker that is stale load what is published now, so that it may serve."""
        async with self._loading:
            if worker.state != "stale":
                return
            try:
                load = self._load or await self._load_anew()
                if load is not None:
                    await self._refit(worker, load)
            except (PayloadLostError, TrainerLostError) as error:
                self._load_lost = error  # the next publish brings other weights, if there is one: see `watch`
                self._attendance.changed()
            self._let_go()

    def raise_if_lost(self) -> None:
        """Where the weights that a worker has to load are gone: raise it.

        Raises:
            TrainerLostError: They went with the trainer's node.
        """
        if isinstance(self._load_lost, TrainerLostError):
            raise self._load_lost
        if self._load_lost:
            raise TrainerLostError(
                f"the published weights are gone with their node: {self._load_lost}"
            ) from self._load_lost

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
            late = isinstance(error, RoleTimeoutError) and not whole and self._spares_late
            if late and worker.state == "loading":
                worker.move("miss")
                self._tell(f"{error}. It gets no prompts until it was refitted")
                self._attendance.beside(self.join(worker))
            else:
                self._lost(worker, error)
            return None
        except WeightSyncError as error:
            if not worker.has_loaded:  # a new one that cannot load what is published: nor will the next
                worker.move("die")
                worker.role.kill()
                raise WeightSyncError(f"{worker.role}: {error}. Its log: {worker.role.log}") from error
            self._lost(worker, error)
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
            worker.has_loaded = True
            self._attendance.changed()
        return stats  # type: ignore[no-any-return]

    def _let_go(self) -> None:
        """Forget the weights that every worker has loaded, if they can be offered anew.

        While the run lacks workers they stay: those that come next are waited for.
        """
        late = any(worker.state in ("stale", "loading") for worker in self._attendance.workers)
        if self._anew and self._attendance.has_enough and not late:
            self._load = None

    async def _load_anew(self) -> Load | None:
        offered = await self._anew() if self._anew else None
        if offered is None:  # the first publish of the next trainer counts this worker in
            return None
        self._load = Load(next(self._numbers), offered)
        return self._load

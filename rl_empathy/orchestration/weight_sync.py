"""Publishing: the trainer's weights become a policy version that every rollout worker serves.

trainer ── an offer of its weights, by a channel (`weight_channels/`) ──> workers

The trainer goes on when the offer is made: the workers load beside its next update, as far as groups for one are there.
When all have loaded the offer is let go, so that a node holds one copy at a time; a worker that comes later gets a new
one.
"""

import asyncio
from collections.abc import Callable

from rl_empathy.errors import PayloadLostError, TrainerLostError
from rl_empathy.orchestration.fleet import PolicyTrainerHandle, RolloutWorkers
from rl_empathy.orchestration.fleet.loads import Offer
from rl_empathy.orchestration.stop import StopSignal
from rl_empathy.orchestration.weight_channels.channel import WeightChannel
from rl_empathy.orchestration.weight_channels.object_store import ObjectStore


class Publisher:
    """Brings the trainer's versions to the workers, one after the other, while the trainer goes on."""

    def __init__(
        self,
        trainer: PolicyTrainerHandle,
        workers: RolloutWorkers,
        tasks: asyncio.TaskGroup,
        stop: StopSignal,
        *,
        channel: WeightChannel | None = None,
    ) -> None:
        """Nothing is published yet.

        Args:
            trainer: Has the weights.
            workers: Want them.
            tasks: Where the workers load, beside the next update.
            stop: Ends every wait for them, and nothing more is published.
            channel: The way that the weights take; left out: the object store.
        """
        self._channel = channel or ObjectStore()
        self._trainer = trainer
        self._workers = workers
        self._tasks = tasks
        self._stop = stop
        self._bringing: asyncio.Task[None] | None = None
        self._metrics: dict[str, float] = {}
        self.rollout_idle: float | None = None
        """Share of the time between the last two publishes in which a worker had nothing to write, in the mean."""
        self._busy_s: dict[str, float] = {}
        self._ready = 0
        self._last = self._now()

    async def publish(self, then: Callable[[], None] = lambda: None) -> None:
        """Take the version that the trainer holds, and begin to bring it to every worker.

        Args:
            then: Called when the workers hold it.
        """
        await self.ended()
        if self._stop.is_set:
            return
        started = self._now()
        offer = await self._channel.offer(self._trainer)
        self._ready = self._workers.num_ready  # none is while it loads
        self._bringing = self._tasks.create_task(self._bring(offer, started, then))

    async def ended(self) -> None:
        """Wait until the workers hold what was published last."""
        await self._stop.unless_set(self._brought())

    def metrics(self) -> dict[str, float]:
        """What the last publish that ended took; mostly it is that of the step before.

        Its time, the pause of running requests (the worst worker's), the idle share of the workers that loaded both
        it and the one before, between the two; and how many workers were ready when the last one began.
        """
        return self._metrics | {"fleet/rollout_workers_ready": float(self._ready)}

    async def _offer_anew(self) -> Offer | None:
        """For a worker that comes when the others have loaded what was published, which nobody holds any more."""
        while await self._trainer.until_idle():
            attempt = self._trainer.version.attempt
            try:
                return await self._channel.offer(self._trainer)
            except TrainerLostError:
                if self._trainer.version.attempt == attempt:
                    raise
        return None

    async def _brought(self) -> None:
        if self._bringing:
            await self._bringing

    async def _bring(self, offer: Offer, started: float, then: Callable[[], None]) -> None:
        try:
            reports = await self._workers.load(offer, self._offer_anew)
        except PayloadLostError as error:  # with the trainer's node; going back publishes older ones
            raise TrainerLostError(str(error)) from error
        now = self._now()
        busy = {process: report["busy_s"] for process, report in reports.items()}
        self._metrics = {
            "time/publish_s": now - started,
            "time/pause_s": max((report["pause_s"] for report in reports.values()), default=0.0),
        }
        both = busy.keys() & self._busy_s.keys()  # one that was late has no beginning to count from
        self.rollout_idle = None
        if both:
            share = sum(busy[process] - self._busy_s[process] for process in both) / len(both)
            self.rollout_idle = max(0.0, 1 - share / max(1e-9, now - self._last))
            self._metrics["idle/rollout_fraction"] = self.rollout_idle
        self._busy_s, self._last = busy, now
        then()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

"""Publishing: the trainer's weights become a policy version that every rollout worker serves.

trainer ── weights(), one copy into the object store ──> node memory ── mapped, no copy ──> workers of the node
"""

import asyncio

from rl_empathy.orchestration.fleet import PolicyTrainerHandle, RolloutWorkers


class Publisher:
    """Brings the trainer's version to the workers, and remembers how busy they were between two publishes."""

    def __init__(self, trainer: PolicyTrainerHandle, workers: RolloutWorkers) -> None:
        self._trainer = trainer
        self._workers = workers
        self._busy_s: dict[str, float] = {}
        self._last = self._now()

    async def publish(self) -> dict[str, float]:
        """Bring the version that the trainer holds to every worker.

        Returns:
            Metrics: time of the publish, pause of running requests (the worst worker's), idle share of the workers.
        """
        started = self._now()
        reports = await self._workers.load_weights(await self._trainer.weights(), self._trainer.version)
        now = self._now()
        busy = {process: report["busy_s"] for process, report in reports.items()}
        share = sum(b - self._busy_s.get(process, 0.0) for process, b in busy.items()) / max(1, len(busy))
        idle = max(0.0, 1 - share / max(1e-9, now - self._last))
        self._busy_s, self._last = busy, now
        return {
            "time/publish_s": now - started,
            "time/pause_s": max((report["pause_s"] for report in reports.values()), default=0.0),
            "idle/rollout_fraction": idle,
            "fleet/rollout_workers_ready": float(self._workers.num_ready),
        }

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

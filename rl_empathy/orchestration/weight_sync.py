"""Publishing: the trainer's weights become a policy version that every rollout worker serves.

trainer ── weights(), one copy into the object store ──> node memory ── mapped, no copy ──> workers of the node
"""

import time

from rl_empathy.orchestration.fleet import PolicyTrainerHandle, RolloutWorkers


class Publisher:
    """Owns the published version, and remembers how busy the workers were between two publishes."""

    def __init__(self, trainer: PolicyTrainerHandle, workers: RolloutWorkers) -> None:
        self._trainer = trainer
        self._workers = workers
        self._busy_s: list[float] = [0.0] * len(workers)
        self._last = time.monotonic()

    async def publish(self) -> dict[str, float]:
        """Bring the version that the trainer holds to every worker.

        Returns:
            Metrics: time of the publish, pause of running requests (the worst worker's), idle share of the workers.
        """
        started = time.monotonic()
        reports = await self._workers.load_weights(self._trainer.weights(), self._trainer.version)
        now = time.monotonic()
        busy = [report["busy_s"] for report in reports]
        share = sum(b - before for b, before in zip(busy, self._busy_s, strict=True)) / len(busy)
        idle = max(0.0, 1 - share / max(1e-9, now - self._last))
        self._busy_s, self._last = busy, now
        return {
            "time/publish_s": now - started,
            "time/pause_s": max(report["pause_s"] for report in reports),
            "idle/rollout_fraction": idle,
            "fleet/rollout_workers_ready": float(len(self._workers)),
        }

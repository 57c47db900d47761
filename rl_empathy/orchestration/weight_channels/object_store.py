"""Through Ray's object store: on CPUs the way, elsewhere one that always works.

trainer ── one copy into the store of its node ──> one copy in the store of each node ── mapped ──> its workers
"""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

from ray import ObjectRef

from rl_empathy.orchestration.fleet import PolicyTrainerHandle
from rl_empathy.orchestration.fleet.calls import Role
from rl_empathy.orchestration.fleet.loads import load_from_store
from rl_empathy.types import PolicyVersion


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """Weights in the object store, which keeps them as long as this is kept."""

    weights: "ObjectRef[Any]"
    version: PolicyVersion

    def deliver(self, worker: Role, whole: bool, number: int) -> Awaitable[Any]:
        return load_from_store(worker, self.weights, whole=whole, number=number)


class ObjectStore:
    """The channel."""

    async def offer(self, trainer: PolicyTrainerHandle) -> StoredWeights:
        version = trainer.version
        return StoredWeights(await trainer.weights(), version)

"""From a model folder that every node can read: what an evaluation loads."""

from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_empathy.orchestration.fleet.calls import Role
from rl_empathy.orchestration.fleet.loads import load_from_folder
from rl_empathy.types import PolicyVersion


@dataclass(frozen=True, slots=True)
class WeightsInFolder:
    """The weights of a model folder."""

    folder: Path
    version: PolicyVersion

    def deliver(self, worker: Role, whole: bool, number: int) -> Awaitable[Any]:
        return load_from_folder(worker, self.folder, self.version, whole=whole, number=number)

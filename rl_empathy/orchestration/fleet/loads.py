"""How rollout workers get weights: what is published now, and what is offered anew to a late one."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ray import ObjectRef

from rl_empathy.orchestration.fleet.calls import Role
from rl_empathy.types import PolicyVersion


class Offer(Protocol):
    """The weights of one policy version, to be had by any worker for as long as this is kept."""

    @property
    def version(self) -> PolicyVersion: ...

    def deliver(self, worker: Role, whole: bool, number: int) -> Awaitable[Any]:
        """Call a worker to load them: the version that it then holds, and what it took.

        Args:
            worker: Which.
            whole: What it has under way is given up.
            number: Rises with every load; a worker refuses one that reaches it after a newer one.
        """


OfferAnew = Callable[[], Awaitable[Offer | None]]
"""Offers the weights that the trainer holds anew; None: it is gone, and the next one publishes."""


@dataclass(frozen=True)
class Load:
    """How a worker gets the weights that are published now."""

    number: int
    """Rises with every load."""
    offer: Offer


def load_from_store(worker: Role, weights: "ObjectRef[Any]", *, whole: bool, number: int) -> Awaitable[Any]:
    """Have a worker load weights from the object store."""
    return worker.actor.load_weights.remote(weights, whole, number)  # type: ignore[no-any-return]


def load_from_folder(
    worker: Role, folder: Path, version: PolicyVersion, *, whole: bool, number: int
) -> Awaitable[Any]:
    """Have a worker load the weights of a model folder of its own architecture."""
    return worker.actor.load_model.remote(str(folder), version, whole, number)  # type: ignore[no-any-return]

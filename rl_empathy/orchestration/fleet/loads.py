"""How rollout workers get weights: what is published now, and what is put into the object store anew for a late one."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ray import ObjectRef

from rl_empathy.orchestration.fleet.calls import Role
from rl_empathy.types import PolicyVersion

Ask = Callable[[Role, bool, int], Awaitable[Any]]
"""Calls a worker, with the number of the load; true: whole, so that what the worker had under way is given up."""
Offer = Callable[[], Awaitable["tuple[ObjectRef[Any], PolicyVersion] | None"]]
"""Puts the weights that the trainer holds into the object store anew; None: it is gone, and the next one publishes."""


@dataclass(frozen=True)
class Load:
    """How a worker gets the weights that are published now."""

    number: int
    """Rises: a worker refuses one that reaches it after a newer one."""
    version: PolicyVersion
    ask: Ask


def from_store(weights: "ObjectRef[Any]") -> Ask:
    """From the object store, which keeps them as long as this is kept."""
    return lambda role, whole, number: role.actor.load_weights.remote(weights, whole, number)

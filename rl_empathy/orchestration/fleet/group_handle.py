"""A group as the driver sees it."""

from dataclasses import dataclass, replace
from typing import Any, Self

from ray import ObjectRef

from rl_empathy.types import GroupHeader, GroupRewards, RolloutGroup


@dataclass(frozen=True, kw_only=True)
class GroupHandle:
    """A group as the driver sees it: the header here, the payload where it was made."""

    header: GroupHeader
    payload: "ObjectRef[RolloutGroup]"
    rewards: GroupRewards | None = None
    reference_logprobs: "ObjectRef[Any] | None" = None

    def scored(self, rewards: GroupRewards, reference_logprobs: "ObjectRef[Any] | None") -> Self:
        return replace(self, rewards=rewards, reference_logprobs=reference_logprobs)

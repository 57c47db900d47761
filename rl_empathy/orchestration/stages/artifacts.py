"""What the stages of a run hand on."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rl_empathy.config.sections import Artifact


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifacts:
    """What the stages have made so far: model folders, by the stage that made each, in their order.

    Example, in stage evaluate of a run with every stage:
        policies      = {"base": runs/x/base, "sft": runs/x/sft/model, "grpo": runs/x/grpo/model}
        reward_models = {"reward_modeling": runs/x/reward_modeling/model}
    """

    policies: Mapping[str, Path]
    """The starting model first, as base."""
    reward_models: Mapping[str, Path] = field(default_factory=dict)

    @property
    def policy(self) -> Path:
        """The last one, which the next stage goes on with."""
        return [*self.policies.values()][-1]

    def with_one_more(self, stage: str, kind: Artifact, folder: Path) -> "Artifacts":
        """These, and what a stage has made."""
        if kind == "policy":
            return replace(self, policies={**self.policies, stage: folder})
        return replace(self, reward_models={**self.reward_models, stage: folder})


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a stage leaves when it is finished."""

    model: Path | None = None
    """The folder that it made; None where it makes nothing."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What its result.json says besides."""

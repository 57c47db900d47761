"""The run itself: its name and stages, and what is recorded of it."""

from typing import Annotated, Literal

from pydantic import Field

from rl_empathy.config.sections.section import Section

Stage = Literal["sft", "reward_modeling", "grpo", "evaluate"]


class RunConfig(Section):
    """What the run is called, and what it does."""

    name: str | None = Field(default=None, pattern=r"^[\w\-][\w.\-]*$")
    """Name of the run and of its directory; the run file's name when left out."""
    stages: tuple[Stage, ...] = ("sft", "reward_modeling", "grpo", "evaluate")
    """The stages, in the order in which they run."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of everything that is drawn: splits, order, initial weights, sampling."""
    deterministic: bool = False
    """Give the same metrics bit for bit after a kill and resume; needs grpo.max_staleness 0, and
    is slower."""
    directory: str = "runs"
    """Folder that holds the run directories."""


class LoggingConfig(Section):
    """What is recorded where; metrics.jsonl and rollouts/ are always written."""

    wandb: Literal["offline", "online", "disabled"] = "offline"
    """Weights & Biases: files to be synced later, live, or nothing."""
    wandb_project: str = "rl-empathy"
    """Project there."""

"""The run itself: its name and stages, and what is recorded of it."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from rl_empathy.config.sections.section import Section

Stage = Literal["sft", "reward_modeling", "grpo", "evaluate"]

MAX_NAME_BYTES = 200
"""A file system takes 255; what is set aside gets a suffix."""


class RunConfig(Section):
    """What the run is called, and what it does."""

    name: str | None = None
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

    @field_validator("name")
    @classmethod
    def _name_is_a_folder_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[\w\-][\w.\-]*", name):
            raise ValueError(
                f"{name!r} is to be a folder: letters, digits, _, - and ., no space, no . at the start"
            )
        if name is not None and len(name.encode()) > MAX_NAME_BYTES:
            raise ValueError(
                f"it has {len(name.encode())} bytes, of which a folder's name may have {MAX_NAME_BYTES}"
            )
        return name

    @field_validator("stages")
    @classmethod
    def _no_stage_twice(cls, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
        if len(set(stages)) < len(stages):
            raise ValueError(f"a stage is there twice: {', '.join(stages)}")
        return stages


class LoggingConfig(Section):
    """What is recorded where; metrics.jsonl and rollouts/ are always written."""

    wandb: Literal["offline", "online", "disabled"] = "offline"
    """Weights & Biases: files to be synced later, live, or nothing."""
    wandb_project: str = "rl-empathy"
    """Project there."""

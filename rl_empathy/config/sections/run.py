"""The run itself: its name and stages, and what is recorded of it."""

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, JsonValue, ValidationInfo, field_validator

from rl_empathy.config.nearest import nearest_word
from rl_empathy.config.sections.section import Section

Artifact = Literal["policy", "reward_model"]
"""What a stage makes: a model folder, and which part it plays."""
TAKEN_NAMES = ("base", "evaluation", "judging", "logs", "model", "rollouts", "wandb")
"""What stands in a run directory beside the folders of its stages."""

MAX_NAME_BYTES = 200
"""A file system takes 255; what is set aside gets a suffix."""


class OwnStageConfig(Section):
    """A stage of yours."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    """As in run.stages; its folder in the run directory is called so, too."""
    function: str
    """Dotted path of an async function (context, artifacts, **arguments), such as my_project.stages.distil."""
    takes: tuple[Artifact, ...] = ("policy",)
    """What it is made from."""
    gives: Artifact | None = None
    """What it makes: the folder that the function returns; left out: nothing, and it is done again where its
    settings or its models change."""
    arguments: dict[str, JsonValue] = Field(default={})
    """Further keyword arguments of the function."""

    @field_validator("name")
    @classmethod
    def _name_is_free(cls, name: str) -> str:
        if name in TAKEN_NAMES:
            raise ValueError(f"{name} stands for something else in a run directory; choose another name")
        return name


class RunConfig(Section):
    """What the run is called, and what it does."""

    name: str | None = None
    """Name of the run and of its directory; the run file's name when left out."""
    own_stages: tuple[OwnStageConfig, ...] = ()
    """Stages of yours, which `stages` may name."""
    stages: tuple[str, ...] = ("sft", "reward_modeling", "grpo", "evaluate")
    """The stages, in the order in which they run."""
    import_from: tuple[str, ...] | None = None
    """Folders with the modules of your functions, besides the working directory; left out: the run file's."""
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

    @field_validator("own_stages")
    @classmethod
    def _own_names_are_new(cls, own: tuple[OwnStageConfig, ...]) -> tuple[OwnStageConfig, ...]:
        names = [stage.name for stage in own]
        if twice := {*names} & {*_shipped()} or {name for name in names if names.count(name) > 1}:
            raise ValueError(f"there is a stage {min(twice)} already; choose another name")
        return own

    @field_validator("stages")
    @classmethod
    def _stages_are_known(cls, stages: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if "own_stages" in info.data:  # else they are wrong themselves, and may be those that are named
            known = [*_shipped(), *(stage.name for stage in info.data["own_stages"])]
            unknown = [stage for stage in stages if stage not in known]
            if told := " ".join(f"there is no stage {stage!r}; {_meant(stage, known)}" for stage in unknown):
                raise ValueError(f"{told} One of yours stands in run.own_stages")
        if len(set(stages)) < len(stages):
            raise ValueError(f"a stage is there twice: {', '.join(stages)}")
        return stages


def _meant(stage: str, known: Sequence[str]) -> str:
    near = nearest_word(stage, known)
    return f"did you mean {near}?" if near else f"the stages are {', '.join(known)}."


def _shipped() -> tuple[str, ...]:
    from rl_empathy.config.stage_table import STAGES  # its plans read run files, of which this is a part

    return tuple(STAGES)


class LoggingConfig(Section):
    """What is recorded where; metrics.jsonl and rollouts/ are always written."""

    wandb: Literal["offline", "online", "disabled"] = "offline"
    """Weights & Biases: files to be synced later, live, or nothing."""
    wandb_project: str = "rl-empathy"
    """Project there."""

"""The stages, one an entry: what each is made from, what it gives, its plan. Their code: `orchestration/stages/`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rl_empathy.config import stage_plans
from rl_empathy.config.model_size import ModelSize
from rl_empathy.config.run_file import RunFile
from rl_empathy.config.sections import Artifact, OwnStageConfig
from rl_empathy.config.stage_plans import StagePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What is known of a stage before it runs."""

    plan: Callable[[RunFile, ModelSize | None], StagePlan]
    keys: tuple[str, ...]
    """Beginnings of the keys of the run file by which it is made, beside those that all stages share."""
    takes: frozenset[Artifact] = frozenset()
    """What it is made from, where an earlier stage has made it."""
    needs: frozenset[Artifact] = frozenset()
    """What of that it cannot do without."""
    gives: Artifact | None = None
    """What it makes; a stage that makes nothing measures, and is done again where what it measures has changed."""
    rewards: bool = False
    """It cannot do without the reward models of the reward's terms."""
    folder: str = ""
    """Its folder in the run directory, where it is not called as the stage."""
    files: tuple[str, ...] = ()
    """What it writes beside its folder."""


POLICY: frozenset[Artifact] = frozenset({"policy"})
BOTH: frozenset[Artifact] = frozenset({"policy", "reward_model"})
STAGES: Mapping[str, Stage] = {
    "sft": Stage(plan=stage_plans.sft, keys=("sft.",), takes=POLICY, gives="policy"),
    "reward_modeling": Stage(
        plan=stage_plans.reward_modeling, keys=("reward_modeling.",), gives="reward_model"
    ),
    "grpo": Stage(
        plan=stage_plans.grpo,
        keys=("grpo.", "rewards."),
        takes=BOTH,
        gives="policy",
        rewards=True,
        files=("rollouts", "ledger.jsonl"),
    ),
    "evaluate": Stage(
        plan=stage_plans.evaluate, keys=("evaluate.", "rewards."), takes=BOTH, folder="evaluation"
    ),
}


def stage_of(run_file: RunFile, name: str) -> Stage:
    """A stage of a run file, one of the user's included."""
    if name in STAGES:
        return STAGES[name]
    numbers = {own.name: number for number, own in enumerate(run_file.run.own_stages)}
    return _own(run_file.run.own_stages[numbers[name]], f"run.own_stages[{numbers[name]}].")


def folder_of(name: str) -> str:
    """A stage's folder in the run directory; of anything else its own name."""
    return (STAGES[name].folder if name in STAGES else "") or name


def stages_that_give(run_file: RunFile, artifact: Artifact) -> list[str]:
    """The stages of a run file, shipped or the user's, that make something, whether they run or not."""
    names = [*STAGES, *(own.name for own in run_file.run.own_stages)]
    return [name for name in names if stage_of(run_file, name).gives == artifact]


def inputs_of(run_file: RunFile, name: str) -> list[str]:
    """The earlier stages that a stage is made from."""
    stages = run_file.run.stages
    takes = stage_of(run_file, name).takes
    return [other for other in stages[: stages.index(name)] if stage_of(run_file, other).gives in takes]


def _own(own: OwnStageConfig, keys: str) -> Stage:
    def plan(run_file: RunFile, size: ModelSize | None) -> StagePlan:
        return StagePlan(stage=own.name, steps=None, work=f"calls {own.function}", roles=())

    takes = frozenset(own.takes)
    return Stage(plan=plan, keys=(keys,), takes=takes, needs=takes, gives=own.gives)

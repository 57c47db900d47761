"""What a run will do and need, before anything starts: stages, roles, CPUs, GPUs, an estimate of memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rl_empathy.config.model_size import ModelSize, from_scratch_parameters, intermediate_size, model_size
from rl_empathy.config.role_plans import RolePlan, gib, resources_text, role_text
from rl_empathy.config.run_file import RunFile
from rl_empathy.config.stage_plans import StagePlan
from rl_empathy.config.stage_table import stage_of

__all__ = ["Plan", "RolePlan", "StagePlan", "from_scratch_parameters", "intermediate_size", "make_plan"]

NEAR = 0.8
"""A plan that takes so much of the memory that there is, is said to be near."""
SMALLER = (
    "a smaller model, {stage}.microbatch_tokens, cluster.policy_trainer.gradient_checkpointing: true, grpo.kl_coef: 0 "
    "(no reference model), cluster.rollout_workers.min and kv_cache_mib"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The stages of a run in their order, and what the hungriest of them needs."""

    run: str
    directory: str
    model: str
    parameters: int | None
    stages: tuple[StagePlan, ...]

    @property
    def total_cpus(self) -> float:
        """Logical CPUs of the hungriest stage, and one for the driver."""
        return max((stage.num_cpus for stage in self.stages), default=0) + 1

    @property
    def total_gpus(self) -> float:
        return max((stage.num_gpus for stage in self.stages), default=0)

    def lines(self) -> list[str]:
        lines = [
            f"run {self.run} in {self.directory}",
            f"model {self.model}: {_count_text(self.parameters)} parameters",
        ]
        for number, stage in enumerate(self.stages, start=1):
            lines.append(f"{number}. {stage.stage}: {stage.work}")
            lines += [f"     {role_text(role)}" for role in stage.roles]
            lines += [f"     {role_text(role)}, at the end" for role in stage.afterwards]
            if stage.published_bytes:
                lines.append(
                    f"     published weights, once on every node: about {gib(stage.published_bytes)} GiB"
                )
        lines.append(f"needs {resources_text(self.total_cpus, self.total_gpus)}, the driver's CPU included")
        return lines

    def cpus_text(self, there_are: int) -> str:
        """A line for the user when the stages ask for more CPUs than the machine has; "" when they do not.

        Args:
            there_are: CPUs of the machine. A local cluster starts on it with any number that it is told of.
        """
        if self.total_cpus <= there_are:
            return ""
        return (
            f"the plan asks for {self.total_cpus:g} CPUs and this machine has {there_are}: the run goes ahead, and is "
            "slower, since its processes share them"
        )

    def refusal(self, lacking: Sequence[str]) -> str:
        """Why a cluster cannot carry it out.

        Args:
            lacking: Such as "6 CPUs, of which the cluster has 4".
        """
        return (
            f"the run needs {' and '.join(lacking)}. Lower cluster.*.num_cpus or rollout_workers.min, raise "
            f"cluster.num_cpus (logical CPUs of a local cluster), or add nodes. The plan:\n{self}"
        )

    def memory_text(self, there_is: int, where: str) -> tuple[bool, str]:
        """Whether the hungriest stage has room, and how much it takes of what there is.

        Args:
            there_is: Bytes.
            where: Who has them.
        """
        if not self.stages:
            return True, ""
        stage = max(self.stages, key=lambda stage: stage.node_bytes)
        share = stage.node_bytes / there_is
        text = (
            f"stage {stage.stage} takes about {gib(stage.node_bytes)} of the {gib(there_is)} GiB of memory of {where}, "
            f"Ray and the driver included ({share:.0%})"
        )
        if share >= NEAR:
            smaller = SMALLER.format(stage="sft" if stage.stage == "sft" else "grpo")
            text += f": {'that is near' if share <= 1 else 'too much'}. Smaller make it: {smaller}"
        return share <= 1, text

    def __str__(self) -> str:
        return "\n".join(self.lines())


def make_plan(run_file: RunFile, *, parameters: int | None = None) -> Plan:
    """Say what the run will do and need.

    Args:
        run_file: The resolved run file.
        parameters: Parameters of the model when they are known; otherwise read off its shape or its file.

    Raises:
        ConfigError: The model's package is not installed, or its files are damaged.
    """
    size = model_size(run_file.model) if parameters is None else ModelSize(parameters, None)
    name = run_file.run.name or "run"
    return Plan(
        run=name,
        directory=str(Path(run_file.run.directory) / name),
        model=_model_text(run_file),
        parameters=size and size.parameters,
        stages=tuple(stage_of(run_file, stage).plan(run_file, size) for stage in run_file.run.stages),
    )


def _model_text(run_file: RunFile) -> str:
    made = run_file.model.from_scratch
    if made is None:
        return str(run_file.model.path)
    first = f", first {made.num_steps:,} steps of language modelling" if made.num_steps else ""
    return f"made from scratch ({made.num_layers} layers of {made.hidden_size}{first})"


def _count_text(parameters: int | None) -> str:
    if parameters is None:
        return "?"
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if parameters >= size:
            return f"{parameters / size:.1f} {unit}"
    return str(parameters)

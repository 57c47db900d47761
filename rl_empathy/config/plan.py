"""What a run will do and need, before anything starts: stages, roles, CPUs, GPUs, an estimate of memory."""

from dataclasses import dataclass
from pathlib import Path

from rl_empathy.config.memory import GIB
from rl_empathy.config.model_size import ModelSize, from_scratch_parameters, intermediate_size, model_size
from rl_empathy.config.role_plans import (
    RolePlan,
    fine_tuning_worker,
    gib,
    policy_trainer,
    reference_model,
    resources_text,
    reward_model,
    reward_modeling_worker,
    role_text,
    rollout_workers,
)
from rl_empathy.config.run_file import RunFile
from rl_empathy.config.sections import Stage

__all__ = ["Plan", "RolePlan", "StagePlan", "from_scratch_parameters", "intermediate_size", "make_plan"]

RAY_BYTES = int(0.7 * GIB)
"""Memory of the driver and of Ray's own processes."""
NEAR = 0.8
"""A plan that takes so much of the memory that there is, is said to be near."""
SMALLER = (
    "a smaller model, {stage}.microbatch_tokens, cluster.policy_trainer.gradient_checkpointing: true, grpo.kl_coef: 0 "
    "(no reference model), cluster.rollout_workers.min and kv_cache_mib"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """One stage: what it does, which roles it holds at once, and which take their place at its end."""

    stage: Stage
    steps: int | None
    """None when only the data tells."""
    work: str
    roles: tuple[RolePlan, ...]
    afterwards: tuple[RolePlan, ...] = ()
    published_bytes: int = 0
    """Weights that go to the rollout workers, once in the object store of every node."""

    @property
    def node_bytes(self) -> int:
        """Memory that all of it takes, where it all runs on one node."""
        roles = max(sum(r.node_bytes for r in roles) for roles in (self.roles, self.afterwards))
        return roles + self.published_bytes + RAY_BYTES

    @property
    def num_cpus(self) -> float:
        return max(sum(r.instances * r.num_cpus for r in roles) for roles in (self.roles, self.afterwards))

    @property
    def num_gpus(self) -> float:
        return max(sum(r.instances * r.num_gpus for r in roles) for roles in (self.roles, self.afterwards))


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
    makers = {"sft": _sft, "reward_modeling": _reward_modeling, "grpo": _grpo, "evaluate": _evaluate}
    name = run_file.run.name or "run"
    return Plan(
        run=name,
        directory=str(Path(run_file.run.directory) / name),
        model=_model_text(run_file),
        parameters=size and size.parameters,
        stages=tuple(makers[stage](run_file, size) for stage in run_file.run.stages),
    )


def _sft(run_file: RunFile, size: ModelSize | None) -> StagePlan:
    config = run_file.sft
    length = f"{config.num_steps:,} steps" if config.num_steps else f"{config.num_epochs:g} epochs"
    work = f"{length}, ≤ {config.batch_tokens:,} tokens a step"
    if config.validity_prompts:
        work += f"; then {config.validity_prompts:,} held-out prompts answered"
    return StagePlan(
        stage="sft",
        steps=config.num_steps,
        work=work,
        roles=(fine_tuning_worker(run_file, size),),
        afterwards=(rollout_workers(run_file, size),) if config.validity_prompts else (),
    )


def _reward_modeling(run_file: RunFile, size: ModelSize | None) -> StagePlan:
    config = run_file.reward_modeling
    roles = [reward_modeling_worker(run_file)]
    stages = run_file.run.stages
    if "sft" in stages[: stages.index("reward_modeling")] and run_file.sft.validity_prompts:
        roles.append(rollout_workers(run_file, size))  # started at the end of sft, and kept
    return StagePlan(
        stage="reward_modeling",
        steps=config.num_steps,
        work=f"{config.num_steps:,} steps, {config.batch_pairs:,} pairs a step",
        roles=tuple(roles),
    )


def _grpo(run_file: RunFile, size: ModelSize | None) -> StagePlan:
    config = run_file.grpo
    completions = config.num_steps * config.groups_per_step * config.group_size
    tokens = completions * config.sampling.max_completion_tokens
    roles = [policy_trainer(run_file, size), rollout_workers(run_file, size)]
    if config.kl_coef > 0:
        roles.append(reference_model(run_file, size))
    return StagePlan(
        stage="grpo",
        steps=config.num_steps,
        work=f"{config.num_steps:,} steps of {config.groups_per_step:,} groups of {config.group_size:,}: "
        f"{completions:,} completions, ≤ {tokens:,} tokens generated",
        roles=(*roles, reward_model(run_file)),
        published_bytes=4 * size.parameters if size else 0,
    )


def _evaluate(run_file: RunFile, size: ModelSize | None) -> StagePlan:
    config = run_file.evaluate
    completions = config.num_prompts * config.num_completions
    return StagePlan(
        stage="evaluate",
        steps=None,
        work=f"{config.num_prompts:,} prompts × {config.num_completions:,} completions of each model, "
        f"≤ {completions * config.sampling.max_completion_tokens:,} tokens generated",
        roles=(rollout_workers(run_file, size), reward_model(run_file)),
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

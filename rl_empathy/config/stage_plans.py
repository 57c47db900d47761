"""What each stage will do and hold: its steps, its roles, which take their place at its end."""

from dataclasses import dataclass

from rl_empathy.config.memory import GIB
from rl_empathy.config.model_size import ModelSize
from rl_empathy.config.role_plans import (
    RolePlan,
    fine_tuning_worker,
    policy_trainer,
    reference_model,
    reward_model,
    reward_modeling_worker,
    rollout_workers,
)
from rl_empathy.config.run_file import RunFile

RAY_BYTES = int(0.7 * GIB)
"""Memory of the driver and of Ray's own processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """One stage: what it does, which roles it holds at once, and which take their place at its end."""

    stage: str
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


def sft(run_file: RunFile, size: ModelSize | None) -> StagePlan:
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


def reward_modeling(run_file: RunFile, size: ModelSize | None) -> StagePlan:
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


def grpo(run_file: RunFile, size: ModelSize | None) -> StagePlan:
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


def evaluate(run_file: RunFile, size: ModelSize | None) -> StagePlan:
    config = run_file.evaluate
    completions = config.num_prompts * config.num_completions
    return StagePlan(
        stage="evaluate",
        steps=None,
        work=f"{config.num_prompts:,} prompts × {config.num_completions:,} completions of each model, "
        f"≤ {completions * config.sampling.max_completion_tokens:,} tokens generated",
        roles=(rollout_workers(run_file, size), reward_model(run_file)),
    )

"""Where the roles run, with which resources, and how long the driver waits for them."""

from typing import Annotated, Literal

from pydantic import Field

from rl_empathy.config.sections.section import Count, Positive, Section


class PolicyTrainerConfig(Section):
    """Resources and settings of the policy trainer."""

    num_cpus: Positive = 1
    """Logical CPUs, and threads."""
    num_gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs."""
    layout: Literal["shared_prompt", "packed"] = "shared_prompt"
    """Row layout: one row a prompt with its completions, or one sequence after the other."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more work."""


class RolloutWorkersConfig(Section):
    """Resources and settings of each rollout worker."""

    min: Count = 1
    """Workers at the start."""
    num_cpus: Positive = 1
    """Logical CPUs, and threads, of each."""
    num_gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs of each."""
    kv_cache_mib: Annotated[int, Field(ge=16)] = 256
    """Memory of the key-value cache of each on a CPU, MiB."""
    max_running_sequences: Count = 64
    """Completions that one engine writes at the same time."""


class RoleConfig(Section):
    """Resources of a role."""

    num_cpus: Positive = 1
    """Logical CPUs, and threads."""
    num_gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs."""


class DeadlinesConfig(Section):
    """How long the driver waits before it names the role that is late, seconds."""

    base_model_s: Positive = 3600
    """Until the starting model is made, converted or fetched."""
    start_s: Positive = 300
    """Until a role is up."""
    sample_s: Positive = 600
    """Until a group is sampled."""
    score_s: Positive = 300
    """Until a group is scored, or has its reference log-probs."""
    update_s: Positive = 1800
    """Until an update is done."""
    publish_s: Positive = 300
    """Until the workers hold the new weights."""
    checkpoint_s: Positive = 600
    """Until a checkpoint is written and read back."""


class ClusterConfig(Section):
    """Where the roles run."""

    address: str = "auto"
    """auto: the cluster that this process belongs to, else a local one; local: always a new local one."""
    num_cpus: Annotated[int, Field(ge=1)] | None = None
    """Logical CPUs of a local cluster; left out: as many as the plan needs."""
    policy_trainer: PolicyTrainerConfig = PolicyTrainerConfig()
    """The policy trainer of stage grpo."""
    stage_worker: RoleConfig = RoleConfig(num_cpus=2)
    """The process that prepares the model and trains in stages sft and reward_modeling, where no other role works."""
    rollout_workers: RolloutWorkersConfig = RolloutWorkersConfig()
    """The rollout workers."""
    reference_model: RoleConfig = RoleConfig()
    """The reference model."""
    reward_model: RoleConfig = RoleConfig()
    """The reward model."""
    deadlines: DeadlinesConfig = DeadlinesConfig()
    """Deadlines of the driver's waits."""

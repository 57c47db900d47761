"""Where the roles run, with which resources, and how long the driver waits for them."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from rl_empathy.config.sections.section import BrokenRule, Count, Positive, Section


class PolicyTrainerConfig(Section):
    """Resources and settings of the policy trainer."""

    ranks: Count = 1
    """Processes that train together, each on a share of every step's completions."""
    zero_stage: Literal[0, 2, 3] = 0
    """What DeepSpeed's ZeRO cuts over the ranks: 0 nothing; 2 optimizer and gradients; 3 the weights too."""
    num_cpus: Positive = 1
    """Logical CPUs, and threads, of each rank."""
    num_gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs of each rank."""
    layout: Literal["shared_prompt", "packed", "one_sequence"] = "shared_prompt"
    """What a row of the trainer holds: prompts, each once with all of its completions; whole sequences side by side;
    or one sequence. A model that the wanted layout does not compute exactly gets the next one, and the log says so."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more work."""


class RolloutWorkersConfig(Section):
    """Resources and settings of each rollout worker."""

    min: Count = 1
    """Workers at the start, and at least."""
    max: Count | None = None
    """Workers at most; in between they are added while the trainer waits for groups, and taken away while groups wait
    for the trainer. A role that is started anew gets its place before those beyond min. Left out: as many as min."""
    num_cpus: Positive = 1
    """Logical CPUs, and threads, of each."""
    num_gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs of each."""
    kv_cache_mib: Annotated[int, Field(ge=16)] = 256
    """Memory of the key-value cache of each on a CPU, MiB."""
    max_running_sequences: Count = 64
    """Completions that one engine writes at the same time."""

    def broken_rules(self) -> Iterator[BrokenRule]:
        if self.max is not None and self.max < self.min:
            yield BrokenRule(("max", "min"), f"max ({self.max}) is below min ({self.min})")


class RoleConfig(Section):
    """Resources of a role."""

    num_cpus: Positive = 1
    """Logical CPUs, and threads."""
    num_gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs."""


class StageWorkerConfig(Section):
    """Resources and settings of those that train a stage."""

    ranks: Count = 1
    """Processes that train together, each on a share of every step."""
    zero_stage: Literal[0, 2, 3] = 0
    """What DeepSpeed's ZeRO cuts over the ranks: 0 nothing; 2 optimizer and gradients; 3 the weights too."""
    num_cpus: Positive = 2
    """Logical CPUs, and threads, of each rank."""
    num_gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs of each rank."""


class DeadlinesConfig(Section):
    """How long the driver waits before it names the role that is late, seconds."""

    base_model_s: Positive = 3600
    """Until the starting model is made, converted or fetched."""
    nodes_s: Annotated[float, Field(ge=0)] = 600
    """Until a cluster that was joined has grown to what the plan needs; 0: it must have it at once."""
    start_s: Positive = 300
    """Until a role is up, or a block of rows is written as tokens; on a cluster that grows, with the time that a node
    takes to come."""
    sample_s: Positive = 600
    """Until a group is sampled, and a worker that is taken away has ended those that it has."""
    score_s: Positive = 300
    """Until a group is scored, or has its reference log-probs."""
    update_s: Positive = 1800
    """Until an update is done."""
    publish_s: Positive = 300
    """Until the workers hold the new weights."""
    workers_s: Positive = 600
    """Until enough rollout workers are ready again, when some were lost."""
    health_s: Positive = 60
    """Until a role that is at work answers that it is alive; one that does not is taken for dead. A rollout worker
    does not while its engine hangs: in a step that takes ten times as long as any before it."""
    checkpoint_s: Positive = 600
    """Until a checkpoint is written and read back."""


class RestartsConfig(Section):
    """How often roles that died or do not answer are started anew before the run ends."""

    each_role: Annotated[int, Field(ge=0)] = 10
    """Restarts of one role; a rollout worker counts as one role, whatever process it is."""
    whole_run: Annotated[int, Field(ge=0)] = 100
    """Restarts of all roles together."""


class ClusterConfig(Section):
    """Where the roles run."""

    address: str = "auto"
    """auto: the cluster that RAY_ADDRESS names, as in a Ray job, else a new local one; local: always a new local one;
    or the address of a cluster, host:port. The same for training and for serving."""
    num_cpus: Annotated[int, Field(ge=1)] | None = None
    """Logical CPUs of a local cluster; left out: as many as the plan needs."""
    policy_trainer: PolicyTrainerConfig = PolicyTrainerConfig()
    """The policy trainer of stage grpo."""
    stage_worker: StageWorkerConfig = StageWorkerConfig()
    """Who prepares the model and trains in stages sft and reward_modeling, where no other role works."""
    rollout_workers: RolloutWorkersConfig = RolloutWorkersConfig()
    """The rollout workers."""
    reference_model: RoleConfig = RoleConfig()
    """The reference model."""
    reward_model: RoleConfig = RoleConfig()
    """The reward model."""
    deadlines: DeadlinesConfig = DeadlinesConfig()
    """Deadlines of the driver's waits."""
    restarts: RestartsConfig = RestartsConfig()
    """Restarts of roles that were lost; counted anew at every start of the run."""

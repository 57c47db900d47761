"""What a run will do and need, before anything starts: stages, roles, CPUs, GPUs, an estimate of memory."""

from dataclasses import dataclass
from pathlib import Path

from rl_empathy.config.model_size import (
    folder_parameters,
    from_scratch_parameters,
    intermediate_size,
    model_parameters,
)
from rl_empathy.config.run_file import RunFile
from rl_empathy.config.sections import PolicyTrainerConfig, RoleConfig, Stage

__all__ = ["Plan", "RolePlan", "StagePlan", "from_scratch_parameters", "intermediate_size", "make_plan"]

MIB, GIB = 2**20, 2**30
RUNTIME_BYTES = int(0.8 * GIB)
"""Of a process that holds vLLM, before weights and cache."""
TRAINING_BYTES = 16
"""Of a parameter in training: float32 weight, gradient, two moments of Adam; mixed with bfloat16 the same."""
ENCODER_PARAMETERS = 22_713_216
"""Of MiniLM-L6, which `encoder: auto` means for English; taken for any encoder that is not a local folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolePlan:
    """One role in a stage, and what each of its instances takes."""

    role: str
    instances: int
    num_cpus: float
    """Logical CPUs of each."""
    num_gpus: float
    """GPUs of each."""
    memory_bytes: int | None
    """Of each, an estimate: parameters and their training state, the key-value cache, the engine's runtime;
    without activations, which microbatch_tokens bounds. None when the number of parameters is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """One stage: what it does, which roles it holds at once, and which take their place at its end."""

    stage: Stage
    steps: int | None
    """None when only the data tells."""
    work: str
    roles: tuple[RolePlan, ...]
    afterwards: tuple[RolePlan, ...] = ()

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
            lines += [f"     {_role_text(role)}" for role in stage.roles]
            lines += [f"     {_role_text(role)}, at the end" for role in stage.afterwards]
        lines.append(f"needs {_resources_text(self.total_cpus, self.total_gpus)}, the driver's CPU included")
        return lines

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
    parameters = model_parameters(run_file.model) if parameters is None else parameters
    makers = {"sft": _sft, "reward_modeling": _reward_modeling, "grpo": _grpo, "evaluate": _evaluate}
    name = run_file.run.name or "run"
    return Plan(
        run=name,
        directory=str(Path(run_file.run.directory) / name),
        model=_model_text(run_file),
        parameters=parameters,
        stages=tuple(makers[stage](run_file, parameters) for stage in run_file.run.stages),
    )


def _sft(run_file: RunFile, parameters: int | None) -> StagePlan:
    config = run_file.sft
    length = f"{config.num_steps:,} steps" if config.num_steps else f"{config.num_epochs:g} epochs"
    work = f"{length}, ≤ {config.batch_tokens:,} tokens a step"
    if config.validity_prompts:
        work += f"; then {config.validity_prompts:,} held-out prompts answered"
    return StagePlan(
        stage="sft",
        steps=config.num_steps,
        work=work,
        roles=(_stage_worker(run_file, parameters),),
        afterwards=(_rollout_workers(run_file, parameters),) if config.validity_prompts else (),
    )


def _reward_modeling(run_file: RunFile, parameters: int | None) -> StagePlan:
    config = run_file.reward_modeling
    roles = [_stage_worker(run_file, _encoder_parameters(run_file))]
    stages = run_file.run.stages
    if "sft" in stages[: stages.index("reward_modeling")] and run_file.sft.validity_prompts:
        roles.append(_rollout_workers(run_file, parameters))  # started at the end of sft, and kept
    return StagePlan(
        stage="reward_modeling",
        steps=config.num_steps,
        work=f"{config.num_steps:,} steps, {config.batch_pairs:,} pairs a step",
        roles=tuple(roles),
    )


def _grpo(run_file: RunFile, parameters: int | None) -> StagePlan:
    config = run_file.grpo
    completions = config.num_steps * config.groups_per_step * config.group_size
    tokens = completions * config.sampling.max_completion_tokens
    roles = [_policy_trainer(run_file, parameters), _rollout_workers(run_file, parameters)]
    if config.kl_coef > 0:
        weights = None if parameters is None else parameters * _weight_bytes(run_file)
        roles.append(_single("reference model", run_file.cluster.reference_model, weights))
    return StagePlan(
        stage="grpo",
        steps=config.num_steps,
        work=f"{config.num_steps:,} steps of {config.groups_per_step:,} groups of {config.group_size:,}: "
        f"{completions:,} completions, ≤ {tokens:,} tokens generated",
        roles=(*roles, _reward_model(run_file)),
    )


def _evaluate(run_file: RunFile, parameters: int | None) -> StagePlan:
    config = run_file.evaluate
    completions = config.num_prompts * config.completions_per_prompt
    return StagePlan(
        stage="evaluate",
        steps=None,
        work=f"{config.num_prompts:,} prompts × {config.completions_per_prompt:,} completions of each model, "
        f"≤ {completions * config.sampling.max_completion_tokens:,} tokens generated",
        roles=(_rollout_workers(run_file, parameters), _reward_model(run_file)),
    )


def _policy_trainer(run_file: RunFile, parameters: int | None) -> RolePlan:
    config = run_file.cluster.policy_trainer
    return RolePlan(
        role="policy trainer" if config.ranks == 1 else "policy trainer rank",
        instances=config.ranks,
        num_cpus=config.num_cpus,
        num_gpus=config.num_gpus,
        memory_bytes=None if parameters is None else int(parameters * _bytes_of_rank(config)),
    )


def _bytes_of_rank(config: PolicyTrainerConfig) -> float:
    """Of a parameter; ZeRO keeps a second copy of the weights with the moments."""
    match config.zero_stage:
        case 0:
            return TRAINING_BYTES
        case 2:
            return 8 + 12 / config.ranks
        case 3:
            return 20 / config.ranks


def _stage_worker(run_file: RunFile, parameters: int | None) -> RolePlan:
    memory = None if parameters is None else parameters * TRAINING_BYTES
    return _single("stage worker", run_file.cluster.stage_worker, memory)


def _rollout_workers(run_file: RunFile, parameters: int | None) -> RolePlan:
    config = run_file.cluster.rollout_workers
    around = config.kv_cache_mib * MIB + RUNTIME_BYTES
    return RolePlan(
        role="rollout worker",
        instances=config.min,
        num_cpus=config.num_cpus,
        num_gpus=config.num_gpus,
        memory_bytes=None if parameters is None else parameters * _weight_bytes(run_file) + around,
    )


def _reward_model(run_file: RunFile) -> RolePlan:
    return _single("reward model", run_file.cluster.reward_model, _encoder_parameters(run_file) * 4)


def _single(role: str, config: RoleConfig, memory_bytes: int | None) -> RolePlan:
    return RolePlan(
        role=role, instances=1, num_cpus=config.num_cpus, num_gpus=config.num_gpus, memory_bytes=memory_bytes
    )


def _weight_bytes(run_file: RunFile) -> int:
    return 2 if run_file.model.dtype == "bfloat16" else 4


def _encoder_parameters(run_file: RunFile) -> int:
    encoder = run_file.reward_modeling.encoder
    known = None if encoder == "auto" else folder_parameters(Path(encoder).expanduser())
    return known or ENCODER_PARAMETERS


def _model_text(run_file: RunFile) -> str:
    made = run_file.model.from_scratch
    if made is None:
        return str(run_file.model.path)
    first = f", first {made.num_steps:,} steps of language modelling" if made.num_steps else ""
    return f"made from scratch ({made.num_layers} layers of {made.hidden_size}{first})"


def _role_text(role: RolePlan) -> str:
    instances = f"{role.instances} × " if role.instances > 1 else ""
    memory = "? GiB" if role.memory_bytes is None else f"{role.memory_bytes / GIB:.1f} GiB"
    return f"{instances}{role.role}: {_resources_text(role.num_cpus, role.num_gpus)}, about {memory}"


def _resources_text(cpus: float, gpus: float) -> str:
    text = f"{cpus:g} CPU{'' if cpus == 1 else 's'}"
    return text if not gpus else f"{text}, {gpus:g} GPU{'' if gpus == 1 else 's'}"


def _count_text(parameters: int | None) -> str:
    if parameters is None:
        return "?"
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if parameters >= size:
            return f"{parameters / size:.1f} {unit}"
    return str(parameters)

"""Each role as the plan sees it: how many, with which resources, and what memory it takes."""

from dataclasses import dataclass
from pathlib import Path

from rl_empathy.config.memory import (
    GIB,
    MIB,
    MicroBatch,
    Parts,
    engine_parts,
    reading_parts,
    training_parts,
)
from rl_empathy.config.model_size import ModelShape, ModelSize, folder_size
from rl_empathy.config.run_file import RunFile
from rl_empathy.config.sections import RoleConfig

ENCODER = ModelSize(22_713_216, ModelShape(384, 6, 1536, 30_522, 384, 384, tied=True))
"""MiniLM-L6, which `encoder: auto` means for English; taken for any encoder that is not a local folder."""
STAGE_WORKER = "stage worker"
"""Name of the role."""
TEXTS_OF_PAIR = 3
"""Question, answer and a negative."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolePlan:
    """One role in a stage, and what each of its instances takes."""

    role: str
    instances: int
    num_cpus: float
    """Logical CPUs of each."""
    num_gpus: float
    """GPUs of each."""
    memory: Parts | None
    """Estimate for each, of its GPU where it has one, else of its node. None when the model's size is unknown."""

    @property
    def memory_bytes(self) -> int | None:
        return None if self.memory is None else sum(self.memory.values())

    @property
    def node_bytes(self) -> int:
        """Bytes of all instances on nodes, as far as it is known and not of GPUs."""
        return 0 if self.num_gpus else self.instances * (self.memory_bytes or 0)


def fine_tuning_worker(run_file: RunFile, size: ModelSize | None) -> RolePlan:
    config = run_file.sft
    step = config.batch_tokens // run_file.cluster.stage_worker.ranks
    batch = MicroBatch(min(config.microbatch_tokens, step), in_bfloat16=_in_bfloat16(run_file))
    return _stage_worker(run_file, size, batch)


def reward_modeling_worker(run_file: RunFile) -> RolePlan:
    config = run_file.reward_modeling
    batch = MicroBatch(
        TEXTS_OF_PAIR * config.batch_pairs * config.max_tokens // run_file.cluster.stage_worker.ranks,
        has_logits=False,
    )
    return _stage_worker(run_file, _encoder(run_file), batch)


def _stage_worker(run_file: RunFile, size: ModelSize | None, batch: MicroBatch) -> RolePlan:
    config = run_file.cluster.stage_worker
    return RolePlan(
        role=STAGE_WORKER,
        instances=config.ranks,
        num_cpus=config.num_cpus,
        num_gpus=config.num_gpus,
        memory=size and training_parts(size, batch, zero_stage=config.zero_stage, ranks=config.ranks),
    )


def reference_model(run_file: RunFile, size: ModelSize | None) -> RolePlan:
    config = run_file.cluster.reference_model
    return _single("reference model", config, size and reading_parts(size, _grpo_batch(run_file)))


def policy_trainer(run_file: RunFile, size: ModelSize | None) -> RolePlan:
    config, batch = run_file.cluster.policy_trainer, _grpo_batch(run_file)
    return RolePlan(
        role="policy trainer" if config.ranks == 1 else "policy trainer rank",
        instances=config.ranks,
        num_cpus=config.num_cpus,
        num_gpus=config.num_gpus,
        memory=size and training_parts(size, batch, zero_stage=config.zero_stage, ranks=config.ranks),
    )


def _grpo_batch(run_file: RunFile) -> MicroBatch:
    """The largest micro-batch, of the longest prompts and completions."""
    config, trainer = run_file.grpo, run_file.cluster.policy_trainer
    prompt, completion = run_file.data.max_prompt_tokens, config.sampling.max_completion_tokens
    tree = prompt + config.group_size * completion
    step = config.groups_per_step * tree // config.updates_per_step // trainer.ranks
    shared = trainer.layout == "shared_prompt"
    return MicroBatch(
        min(config.microbatch_tokens, step),
        spread=config.group_size * (prompt + completion) / tree if shared else 0.0,
        in_bfloat16=_in_bfloat16(run_file),
        recomputes=trainer.gradient_checkpointing,
    )


def rollout_workers(run_file: RunFile, size: ModelSize | None) -> RolePlan:
    config = run_file.cluster.rollout_workers
    return RolePlan(
        role="rollout worker",
        instances=config.min,
        num_cpus=config.num_cpus,
        num_gpus=config.num_gpus,
        memory=size
        and engine_parts(
            size,
            in_bfloat16=_in_bfloat16(run_file),
            cache_bytes=config.kv_cache_mib * MIB,
            on_cpu=not config.num_gpus,
        ),
    )


def reward_model(run_file: RunFile) -> RolePlan:
    tokens = run_file.reward_modeling.max_tokens * run_file.grpo.group_size
    parts = reading_parts(_encoder(run_file), MicroBatch(tokens, has_logits=False))
    return _single("reward model", run_file.cluster.reward_model, parts)


def _single(role: str, config: RoleConfig, memory: Parts | None) -> RolePlan:
    return RolePlan(role=role, instances=1, num_cpus=config.num_cpus, num_gpus=config.num_gpus, memory=memory)


def _in_bfloat16(run_file: RunFile) -> bool:
    return run_file.model.dtype == "bfloat16"


def _encoder(run_file: RunFile) -> ModelSize:
    encoder = run_file.reward_modeling.encoder
    known = None if encoder == "auto" else folder_size(Path(encoder).expanduser())
    return known or ENCODER


def role_text(role: RolePlan) -> str:
    instances = f"{role.instances} × " if role.instances > 1 else ""
    text = f"{instances}{role.role}: {resources_text(role.num_cpus, role.num_gpus)}, about"
    if role.memory is None or role.memory_bytes is None:
        return f"{text} ? GiB"
    parts = ", ".join(f"{name} {gib(held)}" for name, held in role.memory.items() if held >= 0.05 * GIB)
    return f"{text} {gib(role.memory_bytes)} GiB ({parts})"


def gib(count: int) -> str:
    return f"{count / GIB:.1f}"


def resources_text(cpus: float, gpus: float) -> str:
    text = f"{cpus:g} CPU{'' if cpus == 1 else 's'}"
    return text if not gpus else f"{text}, {gpus:g} GPU{'' if gpus == 1 else 's'}"

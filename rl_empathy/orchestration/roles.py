"""Each role, started with what the run file says of it."""

from collections.abc import Sequence
from pathlib import Path

from rl_empathy.actors.policy_trainer import PolicyTrainer
from rl_empathy.actors.reference_model import ReferenceModel
from rl_empathy.actors.reward_model import RewardModel
from rl_empathy.config.sections import RewardTermConfig
from rl_empathy.orchestration.context import RunContext
from rl_empathy.orchestration.fleet import Resources, Role, start_roles


async def start_policy_trainer(context: RunContext, policy: Path) -> Role:
    """The policy trainer, with the weights of a model folder."""
    run_file = context.run_file
    settings = run_file.cluster.policy_trainer
    (role,) = await start_roles(
        PolicyTrainer,
        {"policy_trainer": (str(policy), run_file.grpo, settings)},
        Resources(num_cpus=settings.num_cpus, num_gpus=settings.num_gpus),
        context.directory.logs,
        start_s=run_file.cluster.deadlines.start_s,
        dtype=run_file.model.dtype,
        schema=context.schema,
        folder=str(context.directory.stage("grpo")),
        rollouts_folder=str(context.directory.stage("rollouts")),
        attempt=context.directory.attempt,
        seed=run_file.run.seed,
    )
    return role


async def start_reference_model(context: RunContext, policy: Path) -> Role:
    """The reference model, which is the starting policy."""
    run_file = context.run_file
    settings = run_file.cluster.reference_model
    (role,) = await start_roles(
        ReferenceModel,
        {"reference_model": (str(policy),)},
        Resources(num_cpus=settings.num_cpus, num_gpus=settings.num_gpus),
        context.directory.logs,
        start_s=run_file.cluster.deadlines.start_s,
        dtype=run_file.model.dtype,
        layout=run_file.cluster.policy_trainer.layout,
        microbatch_tokens=run_file.grpo.microbatch_tokens,
    )
    return role


async def start_reward_model(
    context: RunContext,
    terms: Sequence[RewardTermConfig],
    *,
    tokenizer: Path,
    embedding: Path | None,
    name: str = "reward_model",
    witness: str | None = None,
) -> Role:
    """The reward model.

    Args:
        context: Of the run.
        terms: What it rewards.
        tokenizer: Model folder whose tokenizer cuts spans into tokens.
        embedding: Folder of the embedding reward model; None when no term wants it.
        name: Of the role and its log.
        witness: Path of an encoder that trained nothing; None for none.

    Returns:
        The role.
    """
    run_file = context.run_file
    settings = run_file.cluster.reward_model
    (role,) = await start_roles(
        RewardModel,
        {name: (tuple(terms),)},
        Resources(num_cpus=settings.num_cpus, num_gpus=settings.num_gpus),
        context.directory.logs,
        start_s=run_file.cluster.deadlines.start_s,
        schema=context.schema,
        tokenizer_path=str(tokenizer),
        embedding_path=str(embedding) if embedding else None,
        witness_path=witness,
    )
    return role

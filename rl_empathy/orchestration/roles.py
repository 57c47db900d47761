"""Each role, started with what the run file says of it."""

from pathlib import Path

from rl_empathy.actors.policy_trainer import PolicyTrainer
from rl_empathy.actors.reference_model import ReferenceModel
from rl_empathy.actors.reward_model import RewardModel
from rl_empathy.engines.embedding import packaged_encoder
from rl_empathy.orchestration.context import RunContext
from rl_empathy.orchestration.fleet import RewardModelHandle
from rl_empathy.orchestration.fleet.calls import Resources, Role, start_roles


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


async def reward_model(context: RunContext, *, tokenizer: Path, embedding: Path | None) -> RewardModelHandle:
    """The reward model, started when it is first wanted; grpo and evaluate ask the same one.

    Args:
        context: Of the run.
        tokenizer: Model folder whose tokenizer cuts spans into tokens.
        embedding: Folder of the embedding reward model; without one its term is left out.

    Returns:
        The reward model.
    """
    run_file = context.run_file
    settings = run_file.cluster.reward_model
    if "reward_model" not in context.roles:
        terms = [t for t in run_file.grpo.rewards if embedding is not None or t.function != "answer"]
        (context.roles["reward_model"],) = await start_roles(
            RewardModel,
            {"reward_model": (tuple(terms),)},
            Resources(num_cpus=settings.num_cpus, num_gpus=settings.num_gpus),
            context.directory.logs,
            start_s=run_file.cluster.deadlines.start_s,
            schema=context.schema,
            tokenizer_path=str(tokenizer),
            embedding_path=str(embedding) if embedding else None,
            witness_path=_witness(run_file.evaluate.second_encoder, run_file.data.language),
        )
    return RewardModelHandle(context.roles["reward_model"], run_file.cluster.deadlines)


def _witness(second_encoder: str, language: str) -> str | None:
    """Path of an encoder that trained nothing; None where TF-IDF takes its place."""
    if second_encoder != "auto":
        return second_encoder
    return None if language == "zh" else str(packaged_encoder())

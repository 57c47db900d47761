"""Stage grpo: staff the roles, go on from the last checkpoint, run the loop, export the policy."""

import asyncio
from pathlib import Path

from rl_empathy.actors.policy_trainer import PolicyTrainer
from rl_empathy.actors.reference_model import ReferenceModel
from rl_empathy.actors.reward_model import RewardModel
from rl_empathy.data.prompts import PromptStream
from rl_empathy.errors import DataError
from rl_empathy.observability.ledger import Ledger
from rl_empathy.orchestration.context import RunContext
from rl_empathy.orchestration.fleet import (
    Fleet,
    NoReferenceModel,
    PolicyTrainerHandle,
    ReferenceModelHandle,
    ReferenceScorer,
    Resources,
    RewardModelHandle,
    RewardScorer,
    Role,
    ShuffledRewards,
    start_roles,
)
from rl_empathy.orchestration.grpo import run_grpo
from rl_empathy.types import Occurrence


async def run_grpo_stage(context: RunContext, policy: Path, reward_model: Path | None) -> Path:
    """Train the policy and export it.

    Args:
        context: Of the run.
        policy: Folder of the starting policy; it is the reference as well.
        reward_model: Folder of the embedding reward model; None when no term wants it.

    Returns:
        Folder of the trained policy.
    """
    config = context.run_file.grpo
    rows = context.prompts(context.data.train)
    if not rows:
        raise DataError(
            "no training prompt is left for stage grpo; see data.max_prompt_tokens and data.on_risk"
        )
    workers, roles, trainer_role = await asyncio.gather(
        context.rollout_workers(policy),
        _start_scorers(context, policy, reward_model),
        _start_trainer(context, policy),
    )
    trainer = PolicyTrainerHandle(trainer_role, context.run_file.cluster.deadlines)
    state, finished = await trainer.resume()
    ledger = Ledger(context.directory.path / "ledger.jsonl")
    ledger.resume(state["ledger"] if state else [])
    context.log.cut_back("grpo", trainer.version.number)
    prompts = PromptStream(
        rows,
        seed=context.run_file.run.seed,
        cursor=Occurrence(*state["cursor"]) if state else Occurrence(0, 0),
        opened=[Occurrence(*o) for o in state["opened"]] if state else (),
    )
    fleet = Fleet(trainer=trainer, rollout_workers=workers, reward_model=roles[0], reference_model=roles[1])
    context.progress.stage_started("grpo", num_steps=config.num_steps)
    await run_grpo(
        config,
        fleet,
        prompts,
        ledger,
        context.log,
        stop=context.stop,
        finished=finished,
        in_rounds=context.run_file.run.deterministic,
    )
    folder = context.directory.stage("grpo") / "model"
    await trainer.export(folder)
    for role in [trainer_role, *roles[2]]:
        role.kill()
    return folder


async def _start_trainer(context: RunContext, policy: Path) -> Role:
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


async def _start_scorers(
    context: RunContext, policy: Path, reward_model: Path | None
) -> tuple[RewardScorer, ReferenceScorer, list[Role]]:
    run_file = context.run_file
    deadlines, grpo = run_file.cluster.deadlines, run_file.grpo
    starts = [_start_reward_model(context, policy, reward_model)]
    if grpo.kl_coef:
        starts.append(_start_reference_model(context, policy))
    roles = await asyncio.gather(*starts)
    scorer = RewardModelHandle(roles[0], deadlines)
    shuffled = run_file.grpo.shuffle_rewards
    rewards: RewardScorer = ShuffledRewards(scorer, seed=run_file.run.seed) if shuffled else scorer
    reference = ReferenceModelHandle(roles[1], grpo, deadlines) if grpo.kl_coef else NoReferenceModel()
    return rewards, reference, roles


async def _start_reward_model(context: RunContext, policy: Path, reward_model: Path | None) -> Role:
    run_file = context.run_file
    settings = run_file.cluster.reward_model
    (role,) = await start_roles(
        RewardModel,
        {"reward_model": (run_file.grpo.rewards,)},
        Resources(num_cpus=settings.num_cpus, num_gpus=settings.num_gpus),
        context.directory.logs,
        start_s=run_file.cluster.deadlines.start_s,
        schema=context.schema,
        tokenizer_path=str(policy),
        embedding_path=str(reward_model) if reward_model else None,
    )
    return role


async def _start_reference_model(context: RunContext, policy: Path) -> Role:
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

"""Stage grpo: staff the roles, go on from the last checkpoint, run the loop, export the policy."""

import asyncio
from pathlib import Path

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
    RewardModelHandle,
    RewardScorer,
    Role,
    ShuffledRewards,
)
from rl_empathy.orchestration.grpo import run_grpo
from rl_empathy.orchestration.roles import (
    start_policy_trainer,
    start_reference_model,
    start_reward_model,
)
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
        start_policy_trainer(context, policy),
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


async def _start_scorers(
    context: RunContext, policy: Path, reward_model: Path | None
) -> tuple[RewardScorer, ReferenceScorer, list[Role]]:
    run_file = context.run_file
    deadlines, grpo = run_file.cluster.deadlines, run_file.grpo
    starts = [start_reward_model(context, grpo.rewards, tokenizer=policy, embedding=reward_model)]
    if grpo.kl_coef:
        starts.append(start_reference_model(context, policy))
    roles = await asyncio.gather(*starts)
    scorer = RewardModelHandle(roles[0], deadlines)
    rewards: RewardScorer = (
        ShuffledRewards(scorer, seed=run_file.run.seed) if grpo.shuffle_rewards else scorer
    )
    reference = ReferenceModelHandle(roles[1], grpo, deadlines) if grpo.kl_coef else NoReferenceModel()
    return rewards, reference, roles

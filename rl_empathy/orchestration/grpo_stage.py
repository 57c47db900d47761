"""Stage grpo: staff the roles, go on from the last checkpoint, run the loop, export the policy."""

import asyncio
from pathlib import Path

from rl_empathy.data.prompts import PromptStream
from rl_empathy.errors import DataError
from rl_empathy.observability.ledger import Ledger
from rl_empathy.orchestration.calls import Role
from rl_empathy.orchestration.context import RunContext
from rl_empathy.orchestration.fleet import (
    Fleet,
    NoReferenceModel,
    PolicyTrainerHandle,
    ReferenceModelHandle,
    ShuffledRewards,
)
from rl_empathy.orchestration.grpo import run_grpo
from rl_empathy.orchestration.roles import (
    reward_model,
    start_policy_trainer,
    start_reference_model,
)
from rl_empathy.types import Occurrence


async def run_grpo_stage(context: RunContext, policy: Path, encoder: Path | None) -> Path:
    """Train the policy and export it.

    Args:
        context: Of the run.
        policy: Folder of the starting policy; it is the reference as well.
        encoder: Folder of the embedding reward model; None when no term wants it.

    Returns:
        Folder of the trained policy.
    """
    config = context.run_file.grpo
    rows = context.prompts(context.data.train)
    if not rows:
        raise DataError(
            "no training prompt is left for stage grpo; see data.max_prompt_tokens and data.on_risk"
        )
    workers, rewards, reference_role, trainer_role = await asyncio.gather(
        context.rollout_workers(policy),
        reward_model(context, tokenizer=policy, embedding=encoder),
        _reference_model(context, policy),
        start_policy_trainer(context, policy),
    )
    deadlines = context.run_file.cluster.deadlines
    trainer = PolicyTrainerHandle(trainer_role, deadlines)
    resumed = await trainer.resume()
    for problem in resumed.damaged:
        context.progress.warning(f"{problem}: going on from step {trainer.version.number} instead")
    state = resumed.driver
    ledger = Ledger(context.directory.path / "ledger.jsonl")
    ledger.resume(state["ledger"] if state else [])
    context.log.cut_back("grpo", trainer.version.number)
    prompts = PromptStream(
        rows,
        seed=context.run_file.run.seed,
        cursor=Occurrence(*state["cursor"]) if state else Occurrence(0, 0),
        opened=[Occurrence(*o) for o in state["opened"]] if state else (),
    )
    fleet = Fleet(
        trainer=trainer,
        rollout_workers=workers,
        reward_model=ShuffledRewards(rewards, seed=context.run_file.run.seed)
        if config.shuffle_rewards
        else rewards,
        reference_model=ReferenceModelHandle(reference_role, config, deadlines)
        if reference_role
        else NoReferenceModel(),
    )
    context.progress.stage_started("grpo", num_steps=config.num_steps)
    await run_grpo(
        config,
        fleet,
        prompts,
        ledger,
        context.log,
        stop=context.stop,
        finished=resumed.finished,
        in_rounds=context.run_file.run.deterministic,
    )
    folder = context.directory.stage("grpo") / "model"
    await trainer.export(folder)
    for role in (trainer_role, reference_role):
        if role:
            role.kill()
    return folder


async def _reference_model(context: RunContext, policy: Path) -> Role | None:
    return await start_reference_model(context, policy) if context.run_file.grpo.kl_coef else None

"""Stage grpo: staff the roles, go on from the last checkpoint, run the loop, export the policy."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from rl_empathy.data.prompts import PromptStream
from rl_empathy.errors import DataError, Stopped
from rl_empathy.observability.ledger import Ledger
from rl_empathy.orchestration.context import RunContext
from rl_empathy.orchestration.fleet import (
    Fleet,
    NoReferenceModel,
    ReferenceModelHandle,
    RestartableRole,
    ShuffledRewards,
)
from rl_empathy.orchestration.grpo import run_attempts
from rl_empathy.orchestration.roles import (
    policy_trainer,
    reference_model,
    reward_model,
    rollout_workers,
)
from rl_empathy.orchestration.scaling import BY_HAND, Scaler
from rl_empathy.orchestration.stages.artifacts import Artifacts, Made


async def run(context: RunContext, artifacts: Artifacts) -> Made:
    """Train the last policy and export it.

    Raises:
        DataError: No training prompt is left.
        Stopped: It was asked to; what is trained is kept.
    """
    rows = context.prompts(context.data.train)
    if not rows:
        raise DataError(
            "no training prompt is left for stage grpo; see data.max_prompt_tokens and data.on_risk"
        )
    config, seed = context.run_file.grpo, context.run_file.run.seed
    fleet = await context.stop.unless_set(staff(context, artifacts.policy, artifacts.reward_models))
    if fleet is None:
        raise Stopped("stopped while the roles of stage grpo were started; the same command goes on")
    context.progress.stage_started("grpo", num_steps=config.num_steps)
    folder = context.directory.stage("grpo") / "model"
    await run_attempts(
        config,
        fleet,
        PromptStream(rows, seed=seed),
        Ledger(context.directory.path / "ledger.jsonl"),
        context.log,
        stop=context.stop,
        tell=context.progress.warning,
        export_to=folder,
        show=context.progress.waiting,
        in_rounds=context.run_file.run.deterministic,
    )
    await context.memory.look()
    fleet.end_training()
    context.progress.stage_finished("grpo", "")
    return Made(model=folder)


async def staff(context: RunContext, policy: Path, reward_models: Mapping[str, Path]) -> Fleet:
    """Start the roles side by side.

    Args:
        context: Context of the run.
        policy: Folder of the starting policy; it is the reference as well.
        reward_models: Folders of the reward models, by name.
    """
    config, deadlines = context.run_file.grpo, context.run_file.cluster.deadlines
    workers, rewards, reference, trainer = await asyncio.gather(
        rollout_workers(context, policy),
        reward_model(context, tokenizer=policy, reward_models=reward_models),
        _reference_model(context, policy),
        policy_trainer(context, policy),
    )
    shuffled = ShuffledRewards(rewards, seed=context.run_file.run.seed)
    return Fleet(
        trainer=trainer,
        rollout_workers=workers,
        reward_model=shuffled if config.shuffle_rewards else rewards,
        reference_model=ReferenceModelHandle(reference, config, deadlines)
        if reference
        else NoReferenceModel(),
        budget=context.budget,
        scaler=_scaler(context),
    )


def _scaler(context: RunContext) -> Scaler | None:
    settings = context.run_file.cluster.rollout_workers
    if context.run_file.run.deterministic:
        return None
    return Scaler(settings.min, settings.max or settings.min, context.directory.path / BY_HAND)


async def _reference_model(context: RunContext, policy: Path) -> RestartableRole | None:
    return await reference_model(context, policy) if context.run_file.grpo.kl_coef else None

"""Stage grpo: staff the roles, go on from the last checkpoint, run the loop, export the policy."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rl_empathy.data.prompts import PromptStream
from rl_empathy.errors import DataError
from rl_empathy.observability.ledger import Ledger
from rl_empathy.orchestration.context import RunContext
from rl_empathy.orchestration.fleet import (
    Fleet,
    NoReferenceModel,
    PolicyTrainerHandle,
    ReferenceModelHandle,
    ShuffledRewards,
)
from rl_empathy.orchestration.fleet.calls import Role
from rl_empathy.orchestration.grpo import run_grpo
from rl_empathy.orchestration.roles import (
    reward_model,
    start_policy_trainer,
    start_reference_model,
)
from rl_empathy.types import Occurrence, Row


async def run_grpo_stage(context: RunContext, policy: Path, encoder: Path | None) -> Path:
    """Train the policy and export it.

    Args:
        context: Of the run.
        policy: Folder of the starting policy; it is the reference as well.
        encoder: Folder of the embedding reward model; None when no term wants it.

    Returns:
        Folder of the trained policy.
    """
    rows = context.prompts(context.data.train)
    if not rows:
        raise DataError(
            "no training prompt is left for stage grpo; see data.max_prompt_tokens and data.on_risk"
        )
    config, seed = context.run_file.grpo, context.run_file.run.seed
    fleet, roles = await _staff(context, policy, encoder)
    resumed = await fleet.trainer.resume()
    step = fleet.trainer.version.number
    for problem in resumed.damaged:
        context.progress.warning(f"{problem}: going on from step {step} instead")
    ledger = Ledger(context.directory.path / "ledger.jsonl")
    ledger.resume(resumed.driver["ledger"] if resumed.driver else [])
    context.log.cut_back("grpo", step)
    context.progress.stage_started("grpo", num_steps=config.num_steps)
    await run_grpo(
        config,
        fleet,
        _prompt_stream(rows, seed, resumed.driver),
        ledger,
        context.log,
        stop=context.stop,
        finished=resumed.finished,
        in_rounds=context.run_file.run.deterministic,
    )
    folder = context.directory.stage("grpo") / "model"
    await fleet.trainer.export(folder)
    for role in roles:
        role.kill()
    return folder


async def _staff(context: RunContext, policy: Path, encoder: Path | None) -> tuple[Fleet, list[Role]]:
    """Start the roles side by side; those that end with the stage come back beside the fleet."""
    config, deadlines = context.run_file.grpo, context.run_file.cluster.deadlines
    workers, rewards, reference, trainer = await asyncio.gather(
        context.rollout_workers(policy),
        reward_model(context, tokenizer=policy, embedding=encoder),
        _reference_model(context, policy),
        start_policy_trainer(context, policy),
    )
    shuffled = ShuffledRewards(rewards, seed=context.run_file.run.seed)
    fleet = Fleet(
        trainer=PolicyTrainerHandle(trainer, deadlines),
        rollout_workers=workers,
        reward_model=shuffled if config.shuffle_rewards else rewards,
        reference_model=ReferenceModelHandle(reference, config, deadlines)
        if reference
        else NoReferenceModel(),
    )
    return fleet, [role for role in (trainer, reference) if role]


def _prompt_stream(
    rows: Sequence[tuple[Row, list[int]]], seed: int, state: Mapping[str, Any] | None
) -> PromptStream:
    """From where a checkpoint stood, or from the beginning."""
    if state is None:
        return PromptStream(rows, seed=seed)
    opened = [Occurrence(*occurrence) for occurrence in state["opened"]]
    return PromptStream(rows, seed=seed, cursor=Occurrence(*state["cursor"]), opened=opened)


async def _reference_model(context: RunContext, policy: Path) -> Role | None:
    return await start_reference_model(context, policy) if context.run_file.grpo.kl_coef else None

"""Each role, started with what the run file says of it."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from rl_empathy.actors.policy_trainer import PolicyTrainer
from rl_empathy.actors.reference_model import ReferenceModel
from rl_empathy.actors.reward_model import RewardModel
from rl_empathy.actors.rollout_worker import RolloutWorker
from rl_empathy.config.loading import absolute
from rl_empathy.config.run_file import RunFile
from rl_empathy.engines.embedding import packaged_encoder
from rl_empathy.engines.model_folders import engine_fingerprint
from rl_empathy.orchestration.context import RunContext
from rl_empathy.orchestration.fleet import (
    PolicyTrainerHandle,
    RestartableRole,
    RewardModelHandle,
    RolloutWorkers,
)
from rl_empathy.orchestration.fleet.calls import Resources, Role, start_role
from rl_empathy.orchestration.fleet.ranks import Ranks, all_or_none
from rl_empathy.orchestration.fleet.restarts import AT_ONCE
from rl_empathy.orchestration.fleet.savings import MICROBATCH, SEQUENCES

T = TypeVar("T")


async def start_rollout_worker(context: RunContext, name: str, model: Path) -> Role:
    """A rollout worker, with the weights of a model folder."""
    run_file = context.run_file
    settings = run_file.cluster.rollout_workers
    return await _start(
        context,
        name,
        RolloutWorker,
        name,
        str(model),
        resources=Resources(num_cpus=settings.num_cpus, num_gpus=settings.num_gpus, max_concurrency=1000),
        dtype=run_file.model.dtype,
        max_model_tokens=context.max_model_tokens,
        max_running_sequences=context.savings[SEQUENCES],
        kv_cache_mib=settings.kv_cache_mib,
        seed=run_file.run.seed,
        synchronous=run_file.grpo.max_staleness == 0,
        deterministic=run_file.run.deterministic,
    )


async def rollout_workers(context: RunContext, model: Path) -> RolloutWorkers:
    """The rollout workers, started when they are first wanted, and anew for a model that their engines cannot load.

    Two engines never run at once: the old workers end before the new ones start.
    """
    started = context.started
    hold = (engine_fingerprint(model), context.run_file.model.dtype, context.max_model_tokens)
    if started.workers is not None and started.workers_hold != hold:
        await context.memory.look()
        started.workers.kill()
        started.workers = None
    if started.workers is None:
        started.workers, started.workers_hold = await _start_rollout_workers(context, model), hold
    return started.workers


async def _start_rollout_workers(context: RunContext, model: Path) -> RolloutWorkers:
    run_file, count = context.run_file, context.run_file.cluster.rollout_workers.min
    context.progress.message(f"starting {count} rollout worker(s)")
    start = functools.partial(start_rollout_worker, context, model=model)
    return RolloutWorkers(
        await asyncio.gather(*(start(f"rollout_worker_{i}") for i in range(count))),
        start,
        run_file.cluster.deadlines,
        context.budget,
        max_running_sequences=lambda: context.savings[SEQUENCES],
        seed=run_file.run.seed,
        in_step=run_file.run.deterministic,
        tell=context.progress.warning,
    )


async def start_policy_trainer(context: RunContext, policy: Path) -> Ranks:
    """The policy trainer of the current attempt, with the weights of a model folder."""
    run_file = context.run_file
    settings, deadlines = run_file.cluster.policy_trainer, run_file.cluster.deadlines

    async def start(rank: int) -> Role:
        return await _start(
            context,
            "policy_trainer" if settings.ranks == 1 else f"policy_trainer_rank_{rank}",
            PolicyTrainer,
            str(policy),
            run_file.grpo,
            settings,
            resources=Resources(num_cpus=settings.num_cpus, num_gpus=settings.num_gpus),
            rank=rank,
            dtype=run_file.model.dtype,
            schema=context.schema,
            folder=str(context.directory.stage("grpo")),
            rollouts_folder=str(context.directory.stage("rollouts")),
            attempt=context.directory.attempt,
            seed=run_file.run.seed,
        )

    ranks = Ranks(name="policy_trainer", roles=await all_or_none(start(i) for i in range(settings.ranks)))
    try:
        await ranks.load(deadlines)
    except BaseException:
        ranks.kill()
        raise
    return ranks


async def policy_trainer(context: RunContext, policy: Path) -> PolicyTrainerHandle:
    """The policy trainer; one that takes its place is another attempt, whose weights share no name with its own."""

    async def start_next() -> Ranks:
        context.directory.begin_attempt()
        return await _start_again(context, "policy_trainer", lambda: start_policy_trainer(context, policy))

    ranks = await start_policy_trainer(context, policy)
    return PolicyTrainerHandle(
        ranks,
        start_next,
        context.run_file.cluster.deadlines,
        context.budget,
        microbatch_tokens=lambda: context.savings[MICROBATCH],
    )


async def reference_model(context: RunContext, policy: Path) -> RestartableRole:
    """The reference model, which is the starting policy."""
    run_file = context.run_file
    settings = run_file.cluster.reference_model

    async def start() -> Role:
        return await _start(
            context,
            "reference_model",
            ReferenceModel,
            str(policy),
            resources=Resources(num_cpus=settings.num_cpus, num_gpus=settings.num_gpus),
            dtype=run_file.model.dtype,
            layout=run_file.cluster.policy_trainer.layout,
            microbatch_tokens=context.savings[MICROBATCH],
        )

    start_again = functools.partial(_start_again, context, "reference_model", start)
    return RestartableRole(await start(), start_again, context.budget, retries=run_file.grpo.reward_retries)


async def _start_reward_model(
    context: RunContext, tokenizer: Path, reward_models: Mapping[str, Path]
) -> Role:
    run_file, asked = context.run_file, context.started.reward_model
    settings = run_file.cluster.reward_model
    has_scored = asked is not None and asked.has_answered
    return await _start(
        context,
        "reward_model",
        RewardModel,
        run_file.rewards.with_only(reward_models),
        resources=Resources(num_cpus=settings.num_cpus, num_gpus=settings.num_gpus, max_concurrency=AT_ONCE),
        schema=context.schema,
        tokenizer_path=str(tokenizer),
        reward_models={name: str(folder) for name, folder in reward_models.items()},
        language=run_file.data.language,
        import_from=run_file.code_folders,
        replies=str(context.directory.path / "judging"),
        have_worked=has_scored
        or any(context.directory.stage("rollouts").iterdir()),  # of a step that was made
        similarity_encoder=similarity_encoder(run_file),
    )


async def reward_model(
    context: RunContext, *, tokenizer: Path, reward_models: Mapping[str, Path]
) -> RewardModelHandle:
    """The reward model, started when it is first wanted, and anew for completions of another vocabulary or schema.

    Stages grpo and evaluate of one run ask the same one.

    Args:
        context: The run file, the record and the roles.
        tokenizer: Model folder whose tokenizer cuts spans into tokens.
        reward_models: Folders of the trained reward models, by name; terms that lack theirs are left out.

    Returns:
        The reward model.
    """
    run_file, started = context.run_file, context.started
    start = functools.partial(_start_reward_model, context, tokenizer, reward_models)
    reads = (engine_fingerprint(tokenizer), context.schema)
    if started.reward_model is not None and started.reward_model_reads != reads:
        started.reward_model.kill()
        started.reward_model = None
    if started.reward_model is None:
        if left := run_file.rewards.left_out(reward_models):
            context.progress.warning(
                f"{', '.join(sorted(left))}: left out of the evaluation, and of its reward/mean, since no stage has "
                "made its reward model"
            )
        start_again = functools.partial(_start_again, context, "reward_model", start)
        started.reward_model = RestartableRole(
            await start(), start_again, context.budget, retries=run_file.grpo.reward_retries
        )
        started.reward_model_reads = reads
    return RewardModelHandle(started.reward_model, run_file.cluster.deadlines)


async def _start(context: RunContext, name: str, actor_class: type, *arguments: Any, **settings: Any) -> Role:
    """Start a role, and count what memory it holds."""
    role = await start_role(
        name,
        actor_class,
        *arguments,
        logs=context.directory.logs,
        deadlines=context.run_file.cluster.deadlines,
        **settings,
    )
    return context.memory.add(role)


async def _start_again(context: RunContext, name: str, start: Callable[[], Awaitable[T]]) -> T:
    """Start a role in the place of one that is lost: rollout workers beyond `min` leave it the room."""
    if context.started.workers is None:
        return await start()
    return await context.started.workers.roster.start_first(name, start)


def similarity_encoder(run_file: RunFile) -> str | None:
    """Path of the encoder for text/similarity_to_post; None where TF-IDF takes its place."""
    if run_file.evaluate.similarity_encoder != "auto":
        return absolute(run_file.evaluate.similarity_encoder)
    return None if run_file.data.language == "zh" else str(packaged_encoder())

"""Stage evaluate: the held-out prompts, every model of the run side by side."""

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rl_empathy.data.prompts import held_out_prompts
from rl_empathy.engines.chat_files import chat_notes
from rl_empathy.engines.model_folders import require_runnable
from rl_empathy.engines.model_sources import starting_model
from rl_empathy.errors import DataError, ModelError
from rl_empathy.evaluation.measures import MEASURES
from rl_empathy.evaluation.measures.own import own_measures
from rl_empathy.evaluation.report import (
    ModelEvaluation,
    evaluate_completions,
)
from rl_empathy.evaluation.scored import ScoredCompletion
from rl_empathy.evaluation.tfidf import TfidfSimilarity
from rl_empathy.orchestration.context import RunContext
from rl_empathy.orchestration.evaluated_models import EvaluatedModel
from rl_empathy.orchestration.evaluation_report import settings_said, write_completions, write_report
from rl_empathy.orchestration.fleet import (
    GroupHandle,
    RewardModelHandle,
    RolloutWorkers,
)
from rl_empathy.orchestration.roles import reward_model, rollout_workers, similarity_encoder
from rl_empathy.orchestration.weight_channels.folder import WeightsInFolder
from rl_empathy.types import Prompt, RolloutGroup, Row

Scoring = asyncio.Task[list[ScoredCompletion]]


@dataclass(frozen=True, kw_only=True)
class AskedModel:
    """A model with the prompts in its own tokens, and the context in which they are answered."""

    model: EvaluatedModel
    context: RunContext
    prompts: Mapping[str, list[int]]
    """Token ids by row id."""


def asked_models(context: RunContext, models: Sequence[EvaluatedModel]) -> list[AskedModel]:
    """Check every model, and render the prompts for it by its own tokenizer, chat template and instruction.

    Raises:
        ModelError: A model cannot be compared; the text says which, why, and what to do.
    """
    return [_asked(context, model) for model in models]


async def run_evaluation(
    context: RunContext,
    asked: Sequence[AskedModel],
    reward_models: Mapping[str, Path],
    *,
    name: str = "held_out",
    show_all: bool = False,
) -> Path:
    """Let every model answer the held-out prompts, score, and write one JSON.

    The models are asked one after the other. An engine is used again where the next model fits it; otherwise it ends
    before the next one starts.

    Args:
        context: The run's data, directory, log and roles; its run file says on which prompts, and how.
        asked: The models, in the order of the table.
        reward_models: Folders of the reward models, by name; terms that lack theirs are left out.
        name: File name of the JSON, without its suffix.
        show_all: Print every measure instead of the leading ones.

    Returns:
        Path of the JSON.

    Raises:
        DataError: No held-out prompt is short enough for every model.
    """
    rows = _shared_rows(context, asked)
    context.progress.stage_started("evaluate", num_steps=len(asked))
    evaluations = []
    for step, one in enumerate(asked, start=1):
        prompts = held_out_prompts([(row, one.prompts[row.id]) for row in rows])
        scored = await _answers(one.context, one.model, prompts, reward_models)
        evaluations.append(_evaluate(one.context, one.model.name, step, rows, scored))
    context.progress.stage_finished("evaluate", "")
    settings = settings_said(context, [one.model for one in asked], reward_models, rows)
    return write_report(context, evaluations, rows, settings, name=name, show_all=show_all)


def _asked(context: RunContext, model: EvaluatedModel) -> AskedModel:
    try:
        require_runnable(model.folder, max_tokens=context.max_model_tokens)
        if model.is_foreign:
            model = replace(model, folder=_fitted(context, model))
        own = context.of_model(model.folder, model.run_file)
        prompts = {row.id: ids for row, ids in own.prompts(context.data.held_out)}
    except (ModelError, ValueError) as error:  # a DataError, too: the chat template refuses the posts
        raise ModelError(f"{model.name} cannot be compared: {error}") from error
    if not prompts:
        raise ModelError(
            f"{model.name} cannot be compared: none of the {len(context.data.held_out)} held-out prompts can be used; "
            "raise data.max_prompt_tokens"
        )
    return AskedModel(model=model, context=own, prompts=prompts)


def _fitted(context: RunContext, model: EvaluatedModel) -> Path:
    """A foreign model with a chat template that takes its instruction, and a tokenizer that knows its replies' end."""
    folder = context.directory.path / "evaluation" / "fitted" / model.name
    schema, data = model.run_file.schema_declaration, model.run_file.data
    fitted = starting_model(
        model.run_file.model,
        folder,
        data=data,
        texts=(),
        instruction=schema.instruction(data.language),
        delimiters=schema.delimiters,
        seed=0,
        progress=lambda *_: None,
    )
    for note in chat_notes(fitted):
        context.progress.message(f"{model.name}: {note}")
    return fitted


def _shared_rows(context: RunContext, asked: Sequence[AskedModel]) -> list[Row]:
    """The first held-out rows that every model can take, so that all are measured on the same."""
    fitting = [row for row in context.data.held_out if all(row.id in one.prompts for one in asked)]
    if not fitting:
        raise DataError("no held-out prompt is short enough for every model; raise data.max_prompt_tokens")
    wanted = context.run_file.evaluate.num_prompts
    if len(fitting) < wanted:
        context.progress.warning(
            f"evaluate has {len(fitting)} held-out prompts that every model can take, fewer than evaluate.num_prompts "
            f"({wanted})"
        )
    return fitting[:wanted]


async def _answers(
    context: RunContext,
    model: EvaluatedModel,
    asked: Sequence[Prompt],
    reward_models: Mapping[str, Path],
) -> list[list[ScoredCompletion]]:
    """Have a model answer every prompt, and the answers scored, in the order of the prompts."""
    workers, scorer = await asyncio.gather(
        rollout_workers(context, model.folder),
        reward_model(context, tokenizer=model.folder, reward_models=reward_models),
    )
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(workers.watch())
        await workers.load(WeightsInFolder(model.folder, context.next_version()))
        scoring = await _write(
            context,
            workers,
            asked,
            model.name,
            lambda group: tasks.create_task(_score(context, workers, scorer, group)),
        )
        context.progress.waiting("the scores")
        scored = await asyncio.gather(*scoring)
        watching.cancel()
    return scored


async def _write(
    context: RunContext,
    workers: RolloutWorkers,
    asked: Sequence[Prompt],
    model: str,
    score: Callable[[GroupHandle], Scoring],
) -> list[Scoring]:
    """Have every prompt answered."""
    config, size = context.run_file.evaluate, max(1, len(asked))
    if context.run_file.run.deterministic:
        # A worker begins when its share of a cohort is there: as much as it runs at once, so that none queues.
        running = workers.num_expected * context.run_file.cluster.rollout_workers.max_running_sequences
        size = max(workers.num_expected, running // config.num_completions)
    cohorts = [asked[start : start + size] for start in range(0, len(asked), size)]
    answered = itertools.count(1)

    async def answer(prompt: Prompt, cohort: Sequence[Prompt]) -> Scoring:
        group = await workers.sample(
            prompt, sampling=config.sampling, group_size=config.num_completions, cohort=cohort
        )
        context.progress.waiting(f"the answers of {model}: {next(answered)} of {len(asked)} prompts")
        return score(group)

    scoring: list[Scoring] = []
    for cohort in cohorts:
        async with asyncio.TaskGroup() as tasks:  # one failure ends the rest, which would write on for nobody
            answers = [tasks.create_task(answer(prompt, cohort)) for prompt in cohort]
        scoring += [task.result() for task in answers]
    return scoring


def _evaluate(
    context: RunContext, model: str, step: int, rows: list[Row], scored: list[list[ScoredCompletion]]
) -> ModelEvaluation:
    completions = {row.id: several for row, several in zip(rows, scored, strict=True)}
    write_completions(context, model, rows, completions)  # first: measuring them may fail
    evaluation = evaluate_completions(
        model,
        rows,
        completions,
        context.schema,
        context.run_file.data.language,
        bootstrap_samples=context.run_file.evaluate.bootstrap_samples,
        seed=context.run_file.run.seed,
        measures=[*MEASURES, *own_measures(context.run_file)],
    )
    context.log.write("evaluate", step, {key: interval.mean for key, interval in evaluation.measures.items()})
    return evaluation


async def _score(
    context: RunContext, workers: RolloutWorkers, scorer: RewardModelHandle, handle: GroupHandle
) -> list[ScoredCompletion]:
    rewards, similarities = await asyncio.gather(scorer.score(handle), scorer.similarity_to_post(handle))
    group = await workers.payload(handle)
    if similarity_encoder(context.run_file) is None:
        similarities = _tfidf_similarities(context, group)
    return [
        ScoredCompletion(
            prompt_id=group.prompt.row.id,
            text=completion.text,
            finish_reason=completion.finish_reason,
            tokens=len(completion.token_ids),
            rewards={term: scores[i] for term, scores in rewards.terms.items()},
            reward=rewards.totals[i],
            similarity_to_post=similarities[i],
        )
        for i, completion in enumerate(group.completions)
    ]


def _tfidf_similarities(context: RunContext, group: RolloutGroup) -> list[float | None]:
    answer = context.schema.answer
    answers = [context.schema.parse(c.text, strict=False).text_of(answer) for c in group.completions]
    posts = [group.prompt.row.post] * len(answers)
    cosines = _tfidf(context).similarities(posts, answers)
    return [cosine if text else 0.0 for cosine, text in zip(cosines, answers, strict=True)]


def _tfidf(context: RunContext) -> TfidfSimilarity:
    if context.started.tfidf is None:
        context.started.tfidf = TfidfSimilarity([row.post for row in context.data.train])
    return context.started.tfidf

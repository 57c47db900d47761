"""Stage evaluate: the held-out prompts, every model of the run side by side."""

import asyncio
import itertools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from rl_empathy.data.prompts import held_out_prompts
from rl_empathy.evaluation.completions import ScoredCompletion
from rl_empathy.evaluation.measures import TfidfSimilarity
from rl_empathy.evaluation.report import (
    ModelEvaluation,
    comparison_table,
    evaluate_completions,
    to_json,
)
from rl_empathy.observability.streams import go_on_unseen
from rl_empathy.orchestration.context import RunContext
from rl_empathy.orchestration.fleet import (
    GroupHandle,
    RewardModelHandle,
    RolloutWorkers,
)
from rl_empathy.orchestration.roles import reward_model, rollout_workers
from rl_empathy.types import Prompt, RolloutGroup, Row

Scoring = asyncio.Task[list[ScoredCompletion]]
TABLE_WIDTH = 140
"""Of the table where it meets no terminal, characters."""


async def run_evaluation(
    context: RunContext, models: Mapping[str, Path], encoder: Path | None, *, name: str = "held_out"
) -> Path:
    """Let every model answer the held-out prompts, score, and write one JSON.

    Args:
        context: Of the run.
        models: Folder by name, in the order of the table; all of one architecture.
        encoder: Folder of the embedding reward model; None when no term wants it.
        name: Of the JSON.

    Returns:
        Path of the JSON.
    """
    config = context.run_file.evaluate
    prompts = context.prompts(context.data.held_out)[: config.num_prompts]
    if len(prompts) < config.num_prompts:
        context.progress.warning(
            f"evaluate has {len(prompts)} held-out prompts, fewer than evaluate.num_prompts ({config.num_prompts})"
        )
    rows = [row for row, _ in prompts]
    asked = held_out_prompts(prompts)
    context.progress.stage_started("evaluate", num_steps=len(models))
    first = next(iter(models.values()))
    workers, scorer = await asyncio.gather(
        rollout_workers(context, first), reward_model(context, tokenizer=first, embedding=encoder)
    )
    scored: dict[str, list[Scoring]] = {}
    # Inside one task group, so that the last completions of a model are scored while the next one writes.
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(workers.watch())
        for model, folder in models.items():
            await workers.load_model(folder, context.next_version())
            scored[model] = await _write(
                context,
                workers,
                asked,
                model,
                lambda group: tasks.create_task(_score(context, workers, scorer, group)),
            )
        watching.cancel()
    evaluations = [
        _evaluate(context, model, step, rows, [task.result() for task in scoring])
        for step, (model, scoring) in enumerate(scored.items(), start=1)
    ]
    return _write_report(context, evaluations, rows, name)


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
        running = len(workers.roster) * context.run_file.cluster.rollout_workers.max_running_sequences
        size = max(len(workers.roster), running // config.completions_per_prompt)
    cohorts = [asked[start : start + size] for start in range(0, len(asked), size)]
    answered = itertools.count(1)

    async def answer(prompt: Prompt, cohort: Sequence[Prompt]) -> Scoring:
        group = await workers.sample(
            prompt, sampling=config.sampling, group_size=config.completions_per_prompt, cohort=cohort
        )
        context.progress.waiting(f"the answers of {model}: {next(answered)} of {len(asked)} prompts")
        return score(group)

    scoring: list[Scoring] = []
    for cohort in cohorts:
        async with asyncio.TaskGroup() as tasks:  # one failure ends the rest, which would write on for nobody
            answers = [tasks.create_task(answer(prompt, cohort)) for prompt in cohort]
        scoring += [task.result() for task in answers]
    context.progress.waiting("the scores")
    return scoring


def _evaluate(
    context: RunContext, model: str, step: int, rows: list[Row], scored: list[list[ScoredCompletion]]
) -> ModelEvaluation:
    completions = {row.id: several for row, several in zip(rows, scored, strict=True)}
    evaluation = evaluate_completions(
        model,
        rows,
        completions,
        context.schema,
        context.run_file.data.language,
        bootstrap_samples=context.run_file.evaluate.bootstrap_samples,
        seed=context.run_file.run.seed,
    )
    _write_completions(context, model, completions)
    context.log.write("evaluate", step, {key: interval.mean for key, interval in evaluation.measures.items()})
    return evaluation


async def _score(
    context: RunContext, workers: RolloutWorkers, scorer: RewardModelHandle, handle: GroupHandle
) -> list[ScoredCompletion]:
    rewards, witness = await asyncio.gather(scorer.score(handle), scorer.witness(handle))
    group = await workers.payload(handle)
    if context.run_file.data.language == "zh" and context.run_file.evaluate.second_encoder == "auto":
        witness = _tfidf_witness(context, group)
    return [
        ScoredCompletion(
            prompt_id=group.prompt.row.id,
            text=completion.text,
            finish_reason=completion.finish_reason,
            tokens=len(completion.token_ids),
            rewards={term: scores[i] for term, scores in rewards.terms.items()},
            reward=rewards.totals[i],
            second_encoder=witness[i],
        )
        for i, completion in enumerate(group.completions)
    ]


def _tfidf_witness(context: RunContext, group: RolloutGroup) -> list[float | None]:
    answer = context.schema.answer
    answers = [context.schema.parse(c.text, strict=False).text_of(answer) for c in group.completions]
    posts = [group.prompt.row.post] * len(answers)
    cosines = _tfidf(context).similarities(posts, answers)
    return [cosine if text else 0.0 for cosine, text in zip(cosines, answers, strict=True)]


def _tfidf(context: RunContext) -> TfidfSimilarity:
    if "tfidf" not in context.cache:
        context.cache["tfidf"] = TfidfSimilarity([row.post for row in context.data.train])
    return context.cache["tfidf"]  # type: ignore[no-any-return]


def _write_completions(
    context: RunContext, model: str, completions: Mapping[str, list[ScoredCompletion]]
) -> None:
    path = context.directory.stage("evaluate") / f"completions_{model.replace('/', '_')}.jsonl"
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for several in completions.values():
            for c in several:
                line = {
                    "prompt_id": c.prompt_id,
                    "text": c.text,
                    "reward": c.reward,
                    "terms": dict(c.rewards),
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _write_report(
    context: RunContext, evaluations: list[ModelEvaluation], rows: list[Row], name: str
) -> Path:
    path = context.directory.stage("evaluate") / f"{name}.json"
    report: dict[str, Any] = to_json(evaluations, rows, file_sha256=context.data.sha256)
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    table = comparison_table(evaluations)
    with path.with_suffix(".txt").open("w", encoding="utf-8") as file:
        Console(file=file, width=TABLE_WIDTH).print(table)
    go_on_unseen()
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else TABLE_WIDTH).print(table)
    return path

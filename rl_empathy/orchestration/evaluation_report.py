"""What an evaluation leaves: completions, a JSON, two tables, and what has to be said of them."""

import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from rl_empathy.config.run_file import RunFile
from rl_empathy.engines.embedding import DESCRIPTION, packaged_encoder
from rl_empathy.evaluation.measures.own import own_measures
from rl_empathy.evaluation.report import ModelEvaluation, to_json
from rl_empathy.evaluation.scored import ScoredCompletion
from rl_empathy.evaluation.table import comparison_table
from rl_empathy.observability.disk import write_whole
from rl_empathy.observability.run_directory import DATA, SPLIT
from rl_empathy.observability.streams import go_on_unseen
from rl_empathy.orchestration.context import RunContext
from rl_empathy.orchestration.evaluated_models import EvaluatedModel
from rl_empathy.orchestration.roles import similarity_encoder
from rl_empathy.types import Row, conversation_text

WITHOUT_TERMINAL = 10_000
"""Width of the table's place where it meets no terminal, characters: more than any needs, so that no cell wraps."""


def write_completions(
    context: RunContext, model: str, rows: Sequence[Row], completions: Mapping[str, list[ScoredCompletion]]
) -> None:
    """Write what a model wrote, each line readable by itself."""
    path = context.directory.stage("evaluate") / "completions" / f"{model}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for row in rows:
            for c in completions[row.id]:
                line = {
                    "prompt_id": row.id,
                    "post": conversation_text(row.messages),
                    "references": [reference.text for reference in row.references],
                    "text": c.text,
                    "finish_reason": c.finish_reason,
                    "tokens": c.tokens,
                    "reward": c.reward,
                    "terms": dict(c.rewards),
                    "similarity_to_post": c.similarity_to_post,
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def write_report(
    context: RunContext,
    evaluations: list[ModelEvaluation],
    rows: list[Row],
    settings: Mapping[str, Any],
    *,
    name: str,
    show_all: bool,
) -> Path:
    path = context.directory.stage("evaluate") / f"{name}.json"
    read = {"file_sha256": context.data.sha256, "counts": dict(context.data.counts)}
    report = to_json(evaluations, rows, data=read, settings=settings)
    write_whole(path, json.dumps(report, indent=1, ensure_ascii=False))
    remarks = [f"{key.replace('_', ' ')}: {value}" for key, value in _flat(settings)]
    table = partial(
        comparison_table,
        evaluations,
        terms=[term.name for term in context.run_file.rewards.terms if term.leads],
        own=own_measures(context.run_file),
        notes=measure_notes(context.run_file),
        remarks=remarks,
    )
    for every, file_name in ((False, f"{name}.txt"), (True, f"{name}_all.txt")):
        with path.with_name(file_name).open("w", encoding="utf-8") as file:
            Console(file=file, width=WITHOUT_TERMINAL).print(table(show_all=every))
    go_on_unseen()
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else WITHOUT_TERMINAL)
    console.print(table(show_all=show_all))
    if not show_all:
        print(f"every measure: {path.with_name(f'{name}_all.txt')}")
    return path


def settings_said(
    context: RunContext,
    models: Sequence[EvaluatedModel],
    reward_models: Collection[str],
    rows: Sequence[Row],
) -> dict[str, Any]:
    """How the models were asked and scored: for the JSON, and below the table."""
    run_file = context.run_file
    sampling = run_file.evaluate.sampling
    settings: dict[str, Any] = {
        "decoding": f"temperature {sampling.temperature:g}"
        if sampling.temperature
        else "greedy (temperature 0)",
        "asked_with": {model.name: model.asked_with for model in models},
        **_rewarded_by(run_file.run.name, models),
    }
    if left := run_file.rewards.left_out(reward_models):
        settings["left_out"] = (
            f"the reward term {', '.join(left)}, for want of a reward model: reward/mean is the sum "
            "of the others"
        )
    if missing := sum(not row.references for row in rows):
        settings["without_references"] = (
            f"{missing} of {len(rows)} posts, so ROUGE-L and BLEU do not speak for them"
        )
    if trained := {model.name: said for model in models if (said := _of_training(context, model, rows))}:
        settings["training"] = trained
    return settings


def _of_training(context: RunContext, model: EvaluatedModel, rows: Sequence[Row]) -> str:
    """What must be said of a model that may have been trained on the prompts; "" where its run held them out."""
    if model.run is None:
        return ""
    try:
        data = (model.run / DATA).read_text(encoding="utf-8").strip()
        held_out = set(json.loads((model.run / SPLIT).read_text(encoding="utf-8"))["held_out"])
    except (OSError, ValueError, LookupError, TypeError):
        return "what its run held out is not on record; it may have been trained on these prompts"
    if data != context.data.sha256:
        return "its run read other data, which may hold these prompts"
    seen = sum(row.id not in held_out for row in rows)
    return f"{seen} of {len(rows)} prompts are not among those that its run held out" if seen else ""


def _rewarded_by(run: str | None, models: Sequence[EvaluatedModel]) -> dict[str, str]:
    """Whose reward it is, where there are models of several runs, which may have other terms and weights."""
    runs = {model.name.rpartition("/")[0] for model in models}
    return {"reward_of_all_models": f"by the terms and weights of {run}"} if len(runs) > 1 else {}


def _flat(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The settings, a line each; models of which the same is said share one."""
    for key, value in settings.items():
        if isinstance(value, str):
            yield key, value
            continue
        for said in dict.fromkeys(value.values()):
            yield f"{', '.join(name for name in value if value[name] == said)} {key}", said


def measure_notes(run_file: RunFile) -> dict[str, str]:
    """What must be said of single measures: by what they are measured, and whether a reward knows it."""
    encoder, trained_from = similarity_encoder(run_file), run_file.reward_modeling.encoder
    if encoder is None:
        return {"text/similarity_to_post": "overlap of characters (TF-IDF), no likeness of meaning"}
    if (Path(encoder) / DESCRIPTION).is_file():
        return {"text/similarity_to_post": f"{encoder} is a reward model: no evidence beside a reward"}
    if trained_from == "auto":
        trained_from = str(packaged_encoder()) if run_file.data.language == "en" else ""
    rewarded = ", ".join(f"reward/{name}/mean" for name in run_file.rewards.reward_models)
    if rewarded and trained_from and Path(trained_from).resolve() == Path(encoder).resolve():
        shared = "shares weights with the reward model, which was trained from the same encoder: no evidence"
        return {"text/similarity_to_post": f"{shared} beside {rewarded}"}
    return {"text/similarity_to_post": f"by the encoder {encoder}"}

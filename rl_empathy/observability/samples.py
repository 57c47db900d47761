"""What a run's models have written, with its scores, to be read: from stage grpo's rollouts or from an evaluation."""

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_empathy.errors import ConfigError, RunDirectoryError

WIDTH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenSample:
    """One completion."""

    where: str
    """step 36, row en-work-04; or evaluation of grpo, row en-work-04."""
    post: str
    text: str
    reward: float | None
    terms: Mapping[str, float | None]
    finish_reason: str
    tokens: int

    def value(self, term: str | None) -> float | None:
        """Its reward, or one term of it before its weight."""
        return self.reward if term is None else self.terms[term]

    def __str__(self) -> str:
        """As a page of plain text."""
        terms = "  ".join(f"{name} {_number(value)}" for name, value in self.terms.items())
        head = f"{self.where}   reward {_number(self.reward)}   {terms}   {self.tokens} tokens"
        head += " (cut)" if self.finish_reason == "length" else ""
        return f"── {head}\n{_indented(self.post)}\n\n{_indented(self.text)}\n"


def rollouts_of(run: Path, step: int | None) -> Iterator[WrittenSample]:
    """What the rollout workers wrote in a step of stage grpo.

    Args:
        run: Directory of the run.
        step: Which; None is the last.

    Raises:
        ConfigError: There is no such step.
        RunDirectoryError: A line of the file is damaged.
    """
    files = sorted((run / "rollouts").glob("step_*.jsonl"))
    if not files:
        raise ConfigError(f"{run} has no rollouts: its stage grpo has made no step yet")
    steps = {int(path.stem.removeprefix("step_")): path for path in files}
    if step is not None and step not in steps:
        raise ConfigError(
            f"{run} has no rollouts of step {step}; it has those of {min(steps)} to {max(steps)}"
        )
    for line in _lines(steps[max(steps) if step is None else step]):
        yield _sample(line, f"step {line['step']}, row {line['row_id']}", line["prompt"])


def evaluated_of(run: Path, model: str) -> Iterator[WrittenSample]:
    """What a model wrote in the run's evaluation.

    Raises:
        ConfigError: There is no such model.
        RunDirectoryError: A line of the file is damaged.
    """
    folder = run / "evaluation" / "completions"
    path = folder / f"{model}.jsonl"
    if not path.is_file():
        there = sorted(str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.jsonl"))
        raise ConfigError(
            f"the evaluation of {run} has no model {model!r}; it has {', '.join(there) or 'none'}"
        )
    for line in _lines(path):
        yield _sample(line, f"evaluation of {model}, row {line['prompt_id']}", line["post"])


def ordered(samples: Sequence[WrittenSample], term: str | None, *, worst_first: bool) -> list[WrittenSample]:
    """Sort by reward or by a term; those without a score are left out.

    Raises:
        ConfigError: There is no such term.
    """
    terms = [*samples[0].terms] if samples else []
    if term is not None and term not in terms:
        raise ConfigError(f"there is no reward term {term!r}; there are {', '.join(terms)}")
    scored = [sample for sample in samples if sample.value(term) is not None]
    return sorted(scored, key=lambda sample: sample.value(term) or 0.0, reverse=not worst_first)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield json.loads(line)
            except ValueError:
                raise RunDirectoryError(f"{path}:{number} is damaged: it is no JSON") from None


def _sample(line: Mapping[str, Any], where: str, post: str) -> WrittenSample:
    return WrittenSample(
        where=where,
        post=post,
        text=line["text"],
        reward=line["reward"],
        terms=line["terms"],
        finish_reason=line["finish_reason"],
        tokens=line["tokens"],
    )


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.3f}"


def _indented(text: str) -> str:
    lines = [part for line in text.splitlines() for part in textwrap.wrap(line, WIDTH) or [""]]
    return "\n".join(f"   {line}" for line in lines)

"""The user's own functions: imported before a run, and tried once by `--check`."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from rl_empathy.config.own_stages import stage_function
from rl_empathy.config.problems import refusal, rule_problem
from rl_empathy.config.run_file import RunFile
from rl_empathy.config.sections.rewards import TermConfig
from rl_empathy.config.sections.section import BrokenRule
from rl_empathy.config.source import Source
from rl_empathy.data.conversations import target_text
from rl_empathy.errors import DataError, RlEmpathyError
from rl_empathy.evaluation.completions import read_completion
from rl_empathy.evaluation.measures.own import OwnMeasure, own_measure, own_measures
from rl_empathy.evaluation.scored import ScoredCompletion
from rl_empathy.rewards.parts import Parts
from rl_empathy.rewards.scoring import ScoredTerm
from rl_empathy.rewards.terms import TERMS, check_terms
from rl_empathy.rewards.view import view_of
from rl_empathy.types import Completion, FinishReason, Occurrence, PolicyVersion, Prompt, RolloutGroup, Row

TRIED_KINDS = ("function", "trl_function")
"""Terms that are functions of the user's. The others need a reward model of the run, ask a judge, or are ours."""
CHARACTERS_A_TOKEN = 4
"""About as many as in English."""
Call = tuple[str, Callable[[], object]]
"""The key that names a function, and what may fail."""


def require_own_code(run_file: RunFile, source: Source) -> None:
    """Import the user's functions, and look whether every stage, measure and term of the reward can be made.

    Raises:
        ConfigError: Some cannot; with all of them, and their lines.
    """
    _refuse_what_fails(_imports(run_file), source)


def try_own_code(run_file: RunFile, rows: Sequence[Row], source: Source) -> list[str]:
    """Call the functions of the reward and of the evaluation once, so that no training ends at a mistake in one.

    They get two completions of a row: what a model is taught to write there, and one that was cut before its answer,
    as every policy writes some. Where no row teaches anything, both are of the second kind.

    Args:
        run_file: Names the functions.
        rows: Training rows; the first that has a target is used.
        source: Says where they are named.

    Returns:
        What was tried, a line for the user; none where there is nothing to try.

    Raises:
        ConfigError: Some raise, do not end, or give what is no number; with all of them, and their lines.
    """
    measures = own_measures(run_file)
    tried = any(term.kind in TRIED_KINDS for term in run_file.rewards.terms) or measures
    if not rows or not tried:
        return []
    row, target = _row_and_target(run_file, rows)
    cut = _completion("", "length")
    written = [cut if target is None else _completion(target, "stop"), cut]
    prompt = Prompt(occurrence=Occurrence(0, 0), row=row, token_ids=())
    group = RolloutGroup(prompt=prompt, completions=tuple(written), admitted=PolicyVersion(0, 0))
    told: list[str] = []
    with asyncio.Runner() as loop:  # one loop for all terms, as in the run: they may share a client
        calls = [*_term_calls(run_file, group, told, loop), *_measure_calls(run_file, measures, group, told)]
        _refuse_what_fails(calls, source)
    what = "a reply without an answer" if target is None else "what it teaches, and a reply without an answer"
    return [f"your functions, tried on row {row.id} ({what}): {'; '.join(told)}"]


def _refuse_what_fails(calls: Iterable[Call], source: Source) -> None:
    problems = []
    for key, call in calls:
        try:
            call()
        except RlEmpathyError as error:
            problems.append(rule_problem((), BrokenRule((key,), str(error)), source))
    if problems:
        raise refusal(problems)


def _imports(run_file: RunFile) -> Iterator[Call]:
    """Every stage, measure and term, by its key: the call imports or makes it."""
    for number, stage in enumerate(run_file.run.own_stages):
        yield f"run.own_stages[{number}]", partial(stage_function, stage, run_file)
    for number, measure in enumerate(run_file.evaluate.measures):
        yield f"evaluate.measures[{number}]", partial(own_measure, measure, run_file)
    for number, term in enumerate(run_file.rewards.terms):
        alone = run_file.rewards.model_copy(update={"terms": (term,)})
        yield f"rewards.terms[{number}]", partial(check_terms, alone, _parts(run_file))


def _term_calls(
    run_file: RunFile, group: RolloutGroup, told: list[str], loop: asyncio.Runner
) -> Iterator[Call]:
    schema = run_file.schema_declaration
    parsed = [schema.parse(completion.text, strict=True) for completion in group.completions]

    def score(term: TermConfig) -> None:
        once = term.model_copy(update={"retries": 0})
        scored = ScoredTerm(once, TERMS[term.kind](once, _parts(run_file)))
        scores = loop.run(scored.score(view_of(group, parsed, schema, term.sees)))
        told.append(f"{term.name} scores {_shown(scores)}")

    for number, term in enumerate(run_file.rewards.terms):
        if term.kind in TRIED_KINDS:
            yield f"rewards.terms[{number}]", partial(score, term)


def _measure_calls(
    run_file: RunFile, measures: Sequence[OwnMeasure], group: RolloutGroup, told: list[str]
) -> Iterator[Call]:
    row = group.prompt.row
    scored = [
        ScoredCompletion(
            prompt_id=row.id, text=one.text, finish_reason=one.finish_reason, tokens=len(one.token_ids)
        )
        for one in group.completions
    ]
    read = [read_completion(one, run_file.schema_declaration) for one in scored]

    def measured(measure: OwnMeasure) -> None:
        told.append(f"{measure.name} measures {_shown([measure.value(one, row) for one in read])}")

    for number, measure in enumerate(measures):
        yield f"evaluate.measures[{number}]", partial(measured, measure)


def _completion(text: str, finish_reason: FinishReason) -> Completion:
    """With a guess at its number of tokens: the tokenizer may not be at hand."""
    count = 1 + len(text) // CHARACTERS_A_TOKEN
    return Completion(
        token_ids=(0,) * count,
        rollout_logprobs=(0.0,) * count,
        version_spans=(),
        finish_reason=finish_reason,
        text=text,
    )


def _row_and_target(run_file: RunFile, rows: Sequence[Row]) -> tuple[Row, str | None]:
    data, schema = run_file.data, run_file.schema_declaration
    for row in rows:
        try:
            text = target_text(row, schema, language=data.language, missing_trace=data.missing_trace)
        except DataError:  # told when the row is used, as data.on_bad_row says
            continue
        if text is not None:
            return row, text
    return rows[0], None


def _parts(run_file: RunFile) -> Parts:
    return Parts(language=run_file.data.language, import_from=run_file.code_folders)


def _shown(values: Sequence[float | None]) -> str:
    return ", ".join("none" if value is None else f"{value:.3g}" for value in values)

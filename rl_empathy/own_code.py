"""The user's own functions: imported before a run, and tried once by `--check`."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from rl_empathy.config.own_stages import stage_function
from rl_empathy.config.problems import refusal, rule_problem
from rl_empathy.config.run_file import RunFile
from rl_empathy.config.sections.section import BrokenRule
from rl_empathy.config.source import Source
from rl_empathy.data.conversations import target_text
from rl_empathy.errors import ConfigError, DataError
from rl_empathy.evaluation.completions import read_completion
from rl_empathy.evaluation.measures.measure import ReadCompletion
from rl_empathy.evaluation.measures.own import own_measure, own_measures
from rl_empathy.evaluation.scored import ScoredCompletion
from rl_empathy.rewards.parts import Parts
from rl_empathy.rewards.scoring import ScoredTerm
from rl_empathy.rewards.terms import TERMS, check_terms
from rl_empathy.rewards.view import view_of
from rl_empathy.schema import OutputSchema
from rl_empathy.types import Completion, FinishReason, Occurrence, PolicyVersion, Prompt, RolloutGroup, Row

TRIED_KINDS = ("function", "trl_function")
"""Terms that need nothing of the run, and ask no server that is not the user's own choice."""


def require_own_code(run_file: RunFile, source: Source) -> None:
    """Import the user's functions, and look whether every stage, measure and term of the reward can be made.

    Raises:
        ConfigError: Some cannot; with all of them, and their lines.
    """
    problems = []
    for key, look in _own_code(run_file):
        try:
            look()
        except ConfigError as error:
            problems.append(rule_problem((), BrokenRule((key,), str(error)), source))
    if problems:
        raise refusal(problems)


def _own_code(run_file: RunFile) -> Iterator[tuple[str, Callable[[], object]]]:
    """What names a function of the user's or can fail to be made: its key, and how one looks."""
    for number, stage in enumerate(run_file.run.own_stages):
        yield f"run.own_stages[{number}]", partial(stage_function, stage, run_file)
    for number, measure in enumerate(run_file.evaluate.measures):
        yield f"evaluate.measures[{number}]", partial(own_measure, measure, run_file)
    for number, term in enumerate(run_file.rewards.terms):
        alone = run_file.rewards.model_copy(update={"terms": (term,)})
        yield f"rewards.terms[{number}]", partial(check_terms, alone, _parts(run_file))


def try_own_code(run_file: RunFile, rows: Sequence[Row]) -> list[str]:
    """Call the functions of the reward and of the evaluation once, before hours of training end at one.

    They get two completions of a row: what a model is taught to write there, and one that was cut at its first token
    and has no answer, as every policy writes some.

    Args:
        run_file: Names the functions.
        rows: Training rows; the first that has a target is used.

    Returns:
        What was tried, a line for the user; none where there is nothing to try.

    Raises:
        RewardError: A function of the reward raises, or gives what are no scores.
        RoleTimeoutError: One does not end.
        ConfigError: A measure raises, or gives what is no number.
    """
    terms = [term for term in run_file.rewards.terms if term.kind in TRIED_KINDS]
    measures = own_measures(run_file)
    if not rows or not (terms or measures):
        return []
    row, written = _row_and_replies(run_file, rows)
    schema, told = run_file.schema_declaration, list[str]()
    group = RolloutGroup(
        prompt=Prompt(occurrence=Occurrence(0, 0), row=row, token_ids=()),
        completions=tuple(
            Completion(token_ids=(), rollout_logprobs=(), version_spans=(), finish_reason=finish, text=text)
            for text, finish in written
        ),
        admitted=PolicyVersion(0, 0),
    )
    parsed = [schema.parse(text, strict=True) for text, _ in written]
    for config in terms:
        once = config.model_copy(update={"retries": 0})
        term = ScoredTerm(once, TERMS[config.kind](once, _parts(run_file)))
        scores = asyncio.run(term.score(view_of(group, parsed, schema, config.sees)))
        told.append(f"{config.name} scores {_shown(scores)}")
    for measure in measures:
        values = [measure.value(_read(text, finish, row, schema), row) for text, finish in written]
        told.append(f"{measure.name} measures {_shown(values)}")
    what = "what row {} teaches, and an empty reply" if len(written) > 1 else "an empty reply to row {}"
    return [f"your functions, tried on {what.format(row.id)}: {'; '.join(told)}"]


def _parts(run_file: RunFile) -> Parts:
    return Parts(language=run_file.data.language, import_from=run_file.code_folders)


def _row_and_replies(run_file: RunFile, rows: Sequence[Row]) -> tuple[Row, list[tuple[str, FinishReason]]]:
    data = run_file.data
    cut: tuple[str, FinishReason] = ("", "length")
    for row in rows:
        try:
            text = target_text(
                row, run_file.schema_declaration, language=data.language, missing_trace=data.missing_trace
            )
        except DataError:  # told when the row is used, as data.on_bad_row says
            continue
        if text is not None:
            return row, [(text, "stop"), cut]
    return rows[0], [cut]


def _read(text: str, finish: FinishReason, row: Row, schema: OutputSchema) -> ReadCompletion:
    scored = ScoredCompletion(prompt_id=row.id, text=text, finish_reason=finish, tokens=0)
    return read_completion(scored, schema)


def _shown(values: Sequence[float | None]) -> str:
    return ", ".join("none" if value is None else f"{value:.3g}" for value in values)

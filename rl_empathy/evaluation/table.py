"""The table on the terminal: ten measures or all of them, with direction, meaning, and stars that mean something."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from rich.markup import escape
from rich.table import Table

from rl_empathy.evaluation.intervals import Interval
from rl_empathy.evaluation.measures import MEASURES, described, leading
from rl_empathy.evaluation.measures.measure import Measure
from rl_empathy.evaluation.report import Difference, ModelEvaluation, compare
from rl_empathy.evaluation.significance import FALSE_DISCOVERY_RATE, MIN_PROMPTS, significant

MEASURE_WIDTH = 30
"""Characters of the column that names and explains a measure; with three models and their difference it is 100."""


def comparison_table(
    evaluations: Sequence[ModelEvaluation],
    *,
    terms: Sequence[str] = (),
    own: Sequence[Measure] = (),
    show_all: bool = False,
    notes: Mapping[str, str] | None = None,
    remarks: Sequence[str] = (),
) -> Table:
    """One row a measure, one column a model; then the last minus the one before, of two runs the last of each.

    A star marks a difference that stands after Benjamini-Hochberg over the rows shown.

    Args:
        evaluations: In the order of the columns.
        terms: Reward terms that lead, by name.
        own: Measures of the user's, which lead as well.
        show_all: Every measure; otherwise those that a reader wants first.
        notes: What else must be said of a measure, by its name.
        remarks: Lines below the table.
    """
    last_two = _compared(evaluations)
    evaluations, headings = _each_once(evaluations)
    shown = _shown(evaluations, leading(terms, [name for one in own for name in one.DESCRIBED]), show_all)
    differences = {one.measure: one for one in compare(last_two) if one.measure in shown}
    intervals = {measure: one.interval for measure, one in differences.items()}
    stars = dict.fromkeys(significant(differences.values()), " *")
    prompts = {measure: _prompts(evaluations, measure) for measure in shown}
    n_differs = len({*prompts.values(), *(str(one.num_prompts) for one in evaluations)}) > 1
    table = _frame(evaluations, last_two, headings)

    def add_row(measure: str, n: str, cells: Sequence[str], difference: str) -> None:
        name = _named(measure, notes or {}, own)
        if n_differs and n not in ("", str(evaluations[0].num_prompts)):
            name += f"\nprompts with it: {n}"
        table.add_row(name, *cells, *([difference] if last_two else []))

    for measure in shown:
        cells = [_cell(one.measures.get(measure)) for one in evaluations]
        difference = _cell(intervals.get(measure), stars.get(measure, ""))
        add_row(measure, prompts[measure], cells, difference)
    for measure in dict.fromkeys(name for one in evaluations for name in one.corpus) if show_all else ():
        cells = [f"{one.corpus[measure]:.3f}" if measure in one.corpus else "-" for one in evaluations]
        add_row(measure, "", cells, _corpus_difference(measure, *last_two) if last_two else "")
    about = [*_about_stars(list(differences.values())), *_about_columns(evaluations, prompts, headings)]
    table.caption = "\n".join(map(escape, [*about, *remarks]))
    return table


def _each_once(evaluations: Sequence[ModelEvaluation]) -> tuple[Sequence[ModelEvaluation], dict[str, str]]:
    """Models with the same values for every completion, such as a base model that no stage has changed, as one.

    Returns:
        The last of each, and where it stands for several what heads its column: name to `base = sft`.
    """
    alike: list[list[ModelEvaluation]] = []
    for one in evaluations:
        same = next((group for group in alike if replace(group[0], name=one.name) == one), None)
        if same is None:
            alike.append([one])
        else:
            same.append(one)
    headings = {group[-1].name: " = ".join(one.name for one in group) for group in alike if len(group) > 1}
    return [group[-1] for group in alike], headings


def _compared(evaluations: Sequence[ModelEvaluation]) -> Sequence[ModelEvaluation]:
    """The two models whose difference has a column; models of several runs are called run/model."""
    if len(evaluations) < 2:
        return ()
    last = evaluations[-1]
    others = [one for one in evaluations[:-1] if _run_of(one) != _run_of(last)]
    return (others[-1] if others else evaluations[-2], last)


def _run_of(evaluation: ModelEvaluation) -> str:
    return evaluation.name.rpartition("/")[0]


def _frame(
    evaluations: Sequence[ModelEvaluation],
    last_two: Sequence[ModelEvaluation],
    headings: Mapping[str, str],
) -> Table:
    title = "Held-out prompts: mean [95 % interval over prompts]"
    counts = [f"{one.num_prompts} prompts, {one.num_completions} completions" for one in evaluations]
    is_told_once = len(set(counts)) == 1
    if is_told_once:
        title += f"; {counts[0]} of each model"
    table = Table(title=title, title_justify="left", caption_justify="left", show_lines=True)
    table.show_edge = table.pad_edge = False
    # A column with a least width would push others off the edge, so this one has a fixed width.
    table.add_column("measure", width=MEASURE_WIDTH)
    for one, count in zip(evaluations, counts, strict=True):
        heading = escape(headings.get(one.name, one.name))
        table.add_column(heading if is_told_once else f"{heading}\n{count}")
    if last_two:
        table.add_column(f"{escape(last_two[1].name)} - {escape(last_two[0].name)}\npaired")
    return table


def _named(measure: str, notes: Mapping[str, str], own: Sequence[Measure]) -> str:
    better, meaning = described(measure, [*MEASURES, *own])
    direction = "neither better" if better == "neither" else f"{better} is better"
    note = f"; {notes[measure]}" if measure in notes else ""
    return f"{escape(measure)}\n{direction}: {escape(meaning + note)}"


def _prompts(evaluations: Sequence[ModelEvaluation], measure: str) -> str:
    """For how many prompts a measure speaks: one number, or one a model where they differ."""
    counts = [one.measures[measure].num_prompts if measure in one.measures else 0 for one in evaluations]
    return str(counts[0]) if len(set(counts)) == 1 else ", ".join(map(str, counts))


def _about_stars(differences: Sequence[Difference]) -> list[str]:
    if not differences:
        return []
    lines = [
        f"* differs: sign-flip test over prompts, after Benjamini-Hochberg over the {len(differences)} differences "
        f"shown (false discovery rate {FALSE_DISCOVERY_RATE:.0%})"
    ]
    if few := sum(one.interval.num_prompts < MIN_PROMPTS for one in differences):
        lines.append(
            f"no star where a difference speaks for fewer than {MIN_PROMPTS} prompts: {few} of the rows"
        )
    return lines


def _about_columns(
    evaluations: Sequence[ModelEvaluation], prompts: Mapping[str, str], headings: Mapping[str, str]
) -> list[str]:
    lines = [f"{heading}: the same in every figure" for heading in headings.values()]
    if any("," in counted for counted in prompts.values()):
        lines.append("prompts with it: one number a model, from left to right, where they differ")
    if len(evaluations) > 2:
        lines.append("the differences of all other pairs of models stand in the JSON")
    return lines


def _shown(evaluations: Sequence[ModelEvaluation], leads: Sequence[str], show_all: bool) -> list[str]:
    present = dict.fromkeys(measure for one in evaluations for measure in one.measures)
    first = [measure for measure in leads if measure in present]
    return _by_family(present, first) if show_all else first


def _by_family(measures: Iterable[str], first: Sequence[str]) -> list[str]:
    """The leading ones first; then those of one span or kind together, in the order in which the families come."""
    families: dict[str, list[str]] = {"": [*first]}
    for measure in measures:
        if measure not in first:
            families.setdefault(measure.rpartition("/")[0], []).append(measure)
    return [measure for family in families.values() for measure in family]


def _cell(interval: Interval | None, star: str = "") -> str:
    if interval is None:
        return "-"
    mean = f"{_short(interval.mean)}{star}"
    if interval.low is None or interval.high is None:
        return mean
    return f"{mean}\n{escape(f'[{_short(interval.low)}, {_short(interval.high)}]')}"


def _short(value: float) -> str:
    """Three digits behind the point, fewer of what is large."""
    return f"{value:.{3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0}f}"


def _corpus_difference(measure: str, before: ModelEvaluation, after: ModelEvaluation) -> str:
    if measure not in before.corpus or measure not in after.corpus:
        return "-"
    return f"{after.corpus[measure] - before.corpus[measure]:.3f}"

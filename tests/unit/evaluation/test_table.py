"""The table that a reader sees: ten measures, their direction and meaning, and stars that mean something."""

import io
import random
from collections.abc import Sequence

import pytest
from rich.console import Console
from rich.table import Table

from rl_empathy.evaluation.measures import described, leading
from rl_empathy.evaluation.report import ModelEvaluation, evaluate_completions
from rl_empathy.evaluation.scored import ScoredCompletion
from rl_empathy.evaluation.table import comparison_table
from rl_empathy.schema import CHAIN_OF_EMPATHY
from rl_empathy.types import Message, Reference, Row

LEADING = leading(["answer"])
WORRIES = ("work", "sleep", "money", "exams", "my mother", "a friend", "the move", "my health")
ROWS = [
    Row(
        id=f"row-{i}",
        messages=(Message(role="user", content=f"I worry about {WORRIES[i % 8]} every night of week {i}."),),
        references=(Reference(text="It sounds as if you carry a lot on your own."),),
    )
    for i in range(30)
]
ENDINGS = dict(
    zip(CHAIN_OF_EMPATHY.span_names, ("alone", "at night", "for them", "for long", "now"), strict=True)
)
WHOLE = CHAIN_OF_EMPATHY.render({name: f"You carry a lot {ending}." for name, ending in ENDINGS.items()})


def make_evaluation(
    name: str, *, rewards: Sequence[float], text: str = WHOLE, rows: Sequence[Row] = ROWS
) -> ModelEvaluation:
    """One completion a row, with that reward; rows beyond the rewards have none."""
    completions = {
        row.id: [make_completion(text, reward)] for row, reward in zip(rows, rewards, strict=False)
    }
    return evaluated(name, rows, completions)


def make_completion(text: str, reward: float) -> ScoredCompletion:
    return ScoredCompletion(
        prompt_id="",
        text=text,
        finish_reason="stop",
        tokens=len(text),
        rewards={"answer": reward},
        reward=reward,
        similarity_to_post=reward / 9,
    )


def evaluated(name: str, rows: Sequence[Row], completions: dict) -> ModelEvaluation:
    return evaluate_completions(
        name, rows, completions, CHAIN_OF_EMPATHY, "en", bootstrap_samples=200, seed=0
    )


def printed(table: Table) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=220).print(table)
    return stream.getvalue().splitlines()


def cells_of(measure: str, table: Table) -> list[str]:
    """Of each model, then of the difference."""
    names = [cell.split("\n")[0] for cell in table.columns[0].cells]
    return [list(column.cells)[names.index(measure)] for column in table.columns[1:]]


def test_the_table_leads_with_ten_measures_and_shows_the_rest_when_asked() -> None:
    models = [make_evaluation("sft", rewards=range(30))]
    first, everything = (
        comparison_table(models, terms=["answer"], show_all=every) for every in (False, True)
    )
    assert [cell.split("\n")[0] for cell in first.columns[0].cells] == list(LEADING)
    assert len(LEADING) == 10
    assert [cell.split("\n")[0] for cell in everything.columns[0].cells][:10] == list(LEADING)
    assert everything.row_count == len(models[0].measures) + len(models[0].corpus)


def test_every_measure_has_a_direction_and_a_meaning() -> None:
    one = make_evaluation("sft", rewards=range(30))
    for measure in [*one.measures, *one.corpus]:
        better, meaning = described(measure)
        assert better in ("higher", "lower", "neither")
        assert meaning
    cells = list(comparison_table([one], terms=["answer"]).columns[0].cells)
    for measure, cell in zip(LEADING, cells, strict=True):
        assert cell.endswith(f"better: {described(measure).meaning}")
    assert cells[LEADING.index("text/copy_fraction")].split("\n")[1].startswith("lower is better: ")
    assert cells[LEADING.index("text/similarity_to_post")].split("\n")[1].startswith("neither better: ")


def test_copying_stands_beside_every_likeness() -> None:
    similarities = [LEADING.index(measure) for measure in ("reward/answer/mean", "text/similarity_to_post")]
    assert max(abs(LEADING.index("text/copy_fraction") - place) for place in similarities) <= 2


def test_a_note_stands_with_its_measure_and_remarks_below_the_table() -> None:
    table = comparison_table(
        [make_evaluation("sft", rewards=range(30))],
        notes={"text/similarity_to_post": "shares weights with the reward model"},
        remarks=["asked with: no instruction"],
    )
    cell = next(cell for cell in table.columns[0].cells if "text/similarity_to_post" in cell)
    assert "shares weights with the reward model" in cell
    assert "asked with: no instruction" in printed(table)[-1]


def test_a_difference_on_every_prompt_gets_a_star_and_none_at_all_gets_none() -> None:
    models = [
        make_evaluation("sft", rewards=range(30)),
        make_evaluation("grpo", rewards=[i + 1 + i % 2 for i in range(30)]),
    ]
    table = comparison_table(models, terms=["answer"])
    assert cells_of("reward/mean", table)[-1].startswith("1.500 *\n[1.")
    assert "*" not in cells_of("schema/valid_fraction", table)[-1]
    assert "Benjamini-Hochberg over the 10 differences shown" in table.caption


def test_three_models_and_their_difference_fit_a_hundred_columns() -> None:
    models = [make_evaluation("base", rewards=[0.5] * 30, text="?")]
    models += [
        make_evaluation(name, rewards=[i + n for i in range(30)]) for n, name in enumerate(("sft", "grpo"))
    ]
    table = comparison_table(models, terms=["answer"])
    lines = printed(table)
    assert max(len(line.rstrip()) for line in lines) <= 100
    assert lines[0].startswith(
        "Held-out prompts: mean [95 % interval over prompts]; 30 prompts, 30 completions of each"
    )
    cells = next(line for line in lines if line.startswith("reward/mean"))
    assert [cell.strip() for cell in cells.split("│")[1:]] == ["0.500", "14.5", "15.5", "1.000 *"]
    assert [cell.strip() for cell in lines[lines.index(cells) + 1].split("│")[1::2]] == [
        "[0.500, 0.500]",
        "[12.6, 18.6]",
    ]
    assert any("prompts with it: 0, 30, 30" in line for line in lines), (
        "an answer that is none has no word pairs"
    )


def test_models_that_are_the_same_in_every_figure_share_a_column() -> None:
    models = [make_evaluation(name, rewards=range(30)) for name in ("base", "sft")]
    models += [make_evaluation("grpo", rewards=[1] * 30)]
    headers = [str(column.header).split("\n")[0] for column in comparison_table(models).columns]
    assert headers == ["measure", "base = sft", "grpo", "grpo - sft"]
    assert "base = sft: the same in every figure" in comparison_table(models).caption
    alike = comparison_table(models[:2])
    assert [str(column.header).split("\n")[0] for column in alike.columns] == [
        "measure",
        "base = sft",
        "sft - base",
    ]


@pytest.mark.parametrize("width", [90, 140, 10_000])
def test_no_cell_is_cut_at_the_edge_of_the_terminal(width: int) -> None:
    models = [make_evaluation(name, rewards=[n] * 30) for n, name in enumerate(("base", "sft", "grpo"))]
    table = comparison_table(models)
    stream = io.StringIO()
    Console(file=stream, width=width).print(table)
    rows = [line for line in stream.getvalue().splitlines() if "│" in line or "┃" in line]
    assert len(rows) > 20
    assert all(line.count("│") + line.count("┃") == 4 and len(line) <= width for line in rows)
    assert "…" not in stream.getvalue()
    assert table.columns[-1].header in ("grpo - sft\npaired",)
    assert "all other pairs" in table.caption


def test_fewer_than_twenty_prompts_get_no_star_and_the_table_says_so() -> None:
    models = [
        make_evaluation(name, rewards=[reward] * 19, rows=ROWS[:19]) for name, reward in (("a", 0), ("b", 1))
    ]
    table = comparison_table(models, terms=["answer"])
    assert cells_of("reward/mean", table)[-1] == "1.000\n[1.000, 1.000]"
    assert "no star where a difference speaks for fewer than 20 prompts: 10 of the rows" in table.caption


def test_a_measure_says_for_how_many_prompts_it_speaks_where_that_differs() -> None:
    without = [Row(id=row.id, messages=row.messages) for row in ROWS[:12]] + ROWS[12:]
    table = comparison_table([make_evaluation("sft", rewards=range(30), rows=without)])
    names = {cell.split("\n")[0]: cell for cell in table.columns[0].cells}
    assert names["text/rouge_l"].endswith("\nprompts with it: 18")
    assert "prompts with it" not in names["reward/mean"], "the title says 30"
    same_everywhere = comparison_table([make_evaluation("sft", rewards=range(30))])
    assert not any("prompts with it" in cell for cell in same_everywhere.columns[0].cells)


@pytest.mark.slow
def test_two_halves_of_one_models_completions_do_not_differ() -> None:
    """An A/A test: over twenty splits at most one table has a star."""
    draw = random.Random(0)
    words = ["carry", "alone", "heard", "night", "worry", "slow", "breathe", "friend", "rest", "talk"]

    def completion(row: Row) -> ScoredCompletion:
        answer = " ".join(draw.choices(words, k=draw.randint(3, 14)))
        spans = {name: f"{answer} {ending}" for name, ending in ENDINGS.items()}
        spans["L1"] = row.post if draw.random() < 0.3 else answer
        text = CHAIN_OF_EMPATHY.render(spans) if draw.random() < 0.8 else answer
        return make_completion(text, draw.gauss(0.5, 0.2))

    written = {row.id: [completion(row) for _ in range(8)] for row in ROWS}
    starred = 0
    for split in range(20):
        order = random.Random(split)
        halves: tuple[dict, dict] = ({}, {})
        for row_id, several in written.items():
            shuffled = order.sample(several, k=8)
            halves[0][row_id], halves[1][row_id] = shuffled[:4], shuffled[4:]
        models = [evaluated(name, ROWS, half) for name, half in zip("ab", halves, strict=True)]
        starred += any(" *" in cell for cell in comparison_table(models, show_all=True).columns[-1].cells)
    assert starred <= 1


def test_the_table_of_one_model_has_no_difference() -> None:
    table = comparison_table([make_evaluation("[sft]", rewards=[0] * 30)])
    assert len(table.columns) == 2
    assert "[sft]" in "".join(printed(table))


def test_the_table_shows_a_dash_where_a_model_lacks_a_measure() -> None:
    models = [make_evaluation("base", rewards=[0] * 30, text="?"), make_evaluation("sft", rewards=[0] * 30)]
    before, _, difference = cells_of("text/distinct_2", comparison_table(models))
    assert (before, difference) == ("-", "-")


def test_the_whole_table_has_the_measures_of_a_span_together_whichever_model_has_them_first() -> None:
    models = [make_evaluation("base", rewards=[0] * 30, text="?"), make_evaluation("sft", rewards=[0] * 30)]
    names = [cell.split("\n")[0] for cell in comparison_table(models, show_all=True).columns[0].cells]
    assert [name for name in names if name.startswith("span/")][:4] == [
        "span/L1/present_fraction", "span/L1/length_characters",
        "span/L2/present_fraction", "span/L2/length_characters",
    ]  # fmt: skip


def test_the_table_of_no_models_is_empty() -> None:
    assert comparison_table([]).row_count == 0


@pytest.mark.parametrize("show_all", [False, True])
def test_a_single_prompt_is_compared(show_all: bool) -> None:
    models = [make_evaluation(name, rewards=[reward], rows=ROWS[:1]) for name, reward in (("a", 0), ("b", 1))]
    assert cells_of("reward/mean", comparison_table(models, show_all=show_all)) == ["0.000", "1.000", "1.000"]


def test_of_two_runs_the_last_models_of_both_are_compared() -> None:
    names = ["one/base", "one/grpo", "two/base", "two/grpo"]
    table = comparison_table([make_evaluation(name, rewards=[n] * 30) for n, name in enumerate(names)])
    assert str(table.columns[-1].header).startswith("two/grpo - one/grpo")
    names = ["base", "sft", "grpo"]
    table = comparison_table([make_evaluation(name, rewards=[n] * 30) for n, name in enumerate(names)])
    assert str(table.columns[-1].header).startswith("grpo - sft")


def test_a_model_that_is_the_same_as_another_does_not_change_what_is_compared() -> None:
    """A run that trained to 1, and one that did not train: its last model is the first of the other run."""
    models = [
        make_evaluation(name, rewards=[reward] * 30)
        for name, reward in (("A/base", 0), ("A/rl", 1), ("B/base", 0))
    ]
    table = comparison_table(models)
    assert str(table.columns[-1].header).startswith("B/base - A/rl")
    assert cells_of("reward/mean", table)[-1].startswith("-1.000 *")

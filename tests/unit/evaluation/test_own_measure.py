"""A measure of the user's stands in the table, and the package is not touched."""

from pathlib import Path

import pytest

from rl_empathy.config.loading import load_run_file
from rl_empathy.config.run_file import RunFile
from rl_empathy.config.source import Source
from rl_empathy.errors import ConfigError
from rl_empathy.evaluation.measures import MEASURES
from rl_empathy.evaluation.measures.own import own_measures
from rl_empathy.evaluation.report import evaluate_completions
from rl_empathy.evaluation.scored import ScoredCompletion
from rl_empathy.evaluation.table import comparison_table
from rl_empathy.own_code import require_own_code
from rl_empathy.schema import PLAIN
from rl_empathy.types import Message, Row

FUNCTIONS = """
import numpy

def questions(completion, row):
    return completion.answer.count("?") if completion.answer else None

def text(completion, row):
    return "many"

def share(completion, row):
    return completion.answer.count("?") / completion.answer.count(".")

def numpys(completion, row):
    return numpy.float32(0.5)

def endless(completion, row):
    return float("inf")

def wrong(completion):
    return 1.0
"""


def run_file_of(folder: Path, function: str) -> RunFile:
    module = f"measures_{abs(hash(folder))}"  # Python keeps a module that it has imported
    (folder / f"{module}.py").write_text(FUNCTIONS)
    measure = (
        f"{{name: mine/questions, function: {module}.{function}, better: neither, meaning: questions asked}}"
    )
    (folder / "run.yaml").write_text(f"model: {{from_scratch: {{}}}}\nevaluate: {{measures: [{measure}]}}\n")
    return load_run_file(folder / "run.yaml")


def evaluated(run_file: RunFile):
    rows = [Row(id=f"row-{n}", messages=(Message(role="user", content="I am tired."),)) for n in range(3)]
    texts = {"row-0": "Since when?", "row-1": "Why? And since when?", "row-2": "I see."}
    completions = {
        row.id: [ScoredCompletion(prompt_id=row.id, text=texts[row.id], finish_reason="stop", tokens=4)]
        for row in rows
    }
    own = own_measures(run_file)
    return own, evaluate_completions(
        "sft", rows, completions, PLAIN, "en", bootstrap_samples=10, seed=0, measures=[*MEASURES, *own]
    )


def test_a_function_is_a_row_of_the_table(tmp_path):
    run_file = run_file_of(tmp_path, "questions")
    require_own_code(run_file, Source(tmp_path / "run.yaml", ()))
    own, evaluation = evaluated(run_file)
    assert evaluation.measures["mine/questions"].mean == 1
    names = list(comparison_table([evaluation], own=own).columns[0].cells)
    assert "mine/questions\nneither better: questions asked" in names


def test_what_is_no_measure_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="does not take what it is given"):
        require_own_code(run_file_of(tmp_path, "wrong"), Source(tmp_path / "run.yaml", ()))
    with pytest.raises(
        ConfigError, match=r"a completion of row-0: it gave 'many' \(str\), which is no number"
    ):
        evaluated(run_file_of(tmp_path, "text"))


def test_a_number_of_numpy_is_one(tmp_path):
    _, evaluation = evaluated(run_file_of(tmp_path, "numpys"))
    assert evaluation.measures["mine/questions"].mean == 0.5


@pytest.mark.parametrize(
    ("function", "told"), [("share", "ZeroDivisionError: division by zero"), ("endless", "it gave inf")]
)
def test_what_went_wrong_in_a_function_is_told_with_its_name_and_the_row(tmp_path, function, told):
    with pytest.raises(ConfigError, match=rf"{function}, a completion of row-0: {told}"):
        evaluated(run_file_of(tmp_path, function))

"""What the reader may rely on: sizes, vocabulary, one place for `.remote(`, and run files that load."""

import ast
import re
from pathlib import Path

import pytest

from rl_empathy.config.loading import load_run_file
from rl_empathy.rewards.terms import TERMS

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "rl_empathy").rglob("*.py"))
RUN_FILES = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.name)
def test_every_shipped_run_file_loads(path):
    assert load_run_file(path, check_paths=False).run.name == path.stem


def test_there_are_run_files():
    names = {path.stem for path in RUN_FILES}
    assert {"quickstart", "counselchat_cpu", "smile_zh_cpu", "empathy_r1"} <= names


def test_in_training_only_the_fleet_reaches_actors():
    callers = {
        path.relative_to(ROOT).parent.as_posix()
        for path in SOURCES
        if ".remote(" in path.read_text(encoding="utf-8") and "serving" not in path.relative_to(ROOT).parts
    }
    fleet = "rl_empathy/orchestration/fleet"
    assert callers == {fleet, f"{fleet}/workers"}


def test_nothing_waits_for_ray_without_a_deadline():
    for path in SOURCES:
        calls = re.findall(r"\bray\.(?:get|wait)\((.*)", path.read_text(encoding="utf-8"))
        assert all("timeout=" in call for call in calls), path


def test_vllm_is_imported_in_two_engines_only():
    importers = {
        path.stem
        for path in SOURCES
        if "serving" not in path.relative_to(ROOT).parts
        and re.search(r"^\s*(from|import) vllm\b", path.read_text(encoding="utf-8"), re.M)
    }
    assert importers == {"vllm_engine", "weight_transfer"}


def test_the_loop_fits_on_a_screen():
    tree = ast.parse((ROOT / "rl_empathy/orchestration/grpo.py").read_text(encoding="utf-8"))
    loop = next(n for n in tree.body if isinstance(n, ast.AsyncFunctionDef) and n.name == "run_grpo")
    first = loop.body[1].lineno  # after the docstring
    assert loop.end_lineno - first + 1 <= 45


@pytest.mark.parametrize("word", ["TODO", "FIXME", "XXX"])
def test_nothing_is_left_for_later_without_an_issue(word):
    for path in SOURCES:
        assert word not in path.read_text(encoding="utf-8"), path


def test_no_module_has_a_name_that_says_nothing():
    assert not {path.stem for path in SOURCES} & {"utils", "helpers", "misc", "common"}


def test_no_branch_on_a_kind_of_reward_term_outside_the_terms():
    kinds = {*TERMS} - {"embedding", "function"}  # words that mean other things as well
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            compared = ast.walk(node) if isinstance(node, ast.Compare | ast.MatchValue) else ()
            said = {part.value for part in compared if isinstance(part, ast.Constant)}
            assert not kinds & {each for each in said if isinstance(each, str)}, f"{path}:{node.lineno}"

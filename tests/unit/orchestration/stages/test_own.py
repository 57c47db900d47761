"""A stage of the user's: found beside the run file, given what earlier stages made, and its folder handed on."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rl_empathy.config.loading import load_run_file
from rl_empathy.config.run_file import RunFile
from rl_empathy.config.source import Source
from rl_empathy.errors import ConfigError, Stopped, TrainingError
from rl_empathy.orchestration.stages import Artifacts, Made, runner_of
from rl_empathy.orchestration.stop import StopSignal
from rl_empathy.own_code import require_own_code

STAGES = """
import asyncio
import json

async def note(context, artifacts, *, word="hello"):
    folder = context.directory.stage("note")
    (folder / "config.json").write_text(json.dumps([word, *artifacts.policies]))
    return folder

async def astray(context, artifacts):
    return context.directory.stage("note")

async def stopped(context, artifacts):
    context.stop.set()
    await asyncio.Event().wait()

async def just_done(context, artifacts):
    context.stop.set()
    return await note(context, artifacts)

def plain(context, artifacts):
    pass
"""
RUN_FILE = """
model: {from_scratch: {}}
run:
  stages: [sft, note, evaluate]
  own_stages:
    - {name: note, function: FUNCTION, gives: policy, arguments: ARGUMENTS}
"""


def run_file_of(folder: Path, function: str, arguments: str = "{}") -> RunFile:
    module = f"stages_{abs(hash(folder))}"  # Python keeps a module that it has imported
    (folder / f"{module}.py").write_text(STAGES)
    text = RUN_FILE.replace("FUNCTION", f"{module}.{function}").replace("ARGUMENTS", arguments)
    (folder / "run.yaml").write_text(text)
    return load_run_file(folder / "run.yaml")


def context_of(folder: Path, run_file: RunFile) -> Any:
    def stage(name: str) -> Path:
        (folder / name).mkdir(exist_ok=True)
        return folder / name

    def ignore(*_: object, **__: object) -> None:
        pass

    return SimpleNamespace(
        run_file=run_file,
        directory=SimpleNamespace(stage=stage, path=folder),
        log=SimpleNamespace(cut_back=ignore),
        progress=SimpleNamespace(stage_started=ignore, stage_finished=ignore),
        stop=StopSignal(),
    )


def carried_out(folder: Path, run_file: RunFile) -> Made:
    async def run() -> Made:
        artifacts = Artifacts(policies={"base": folder / "base", "sft": folder / "sft"})
        return await runner_of("note")(context_of(folder, run_file), artifacts)

    return asyncio.run(run())


def test_a_function_beside_the_run_file_is_a_stage_and_gives_a_policy(tmp_path):
    run_file = run_file_of(tmp_path, "note", "{word: hi}")
    require_own_code(run_file, Source(tmp_path / "run.yaml", ()))
    made = carried_out(tmp_path, run_file)
    assert made == Made(model=tmp_path / "note")
    assert (tmp_path / "note" / "config.json").read_text() == '["hi", "base", "sft"]'


def test_a_stage_that_hands_on_no_model_folder_where_it_should_ends_the_run_by_name(tmp_path):
    with pytest.raises(TrainingError, match=r"stage note gives a policy, so stages_\d+\.astray must return"):
        carried_out(tmp_path, run_file_of(tmp_path, "astray"))


def test_a_stage_in_which_the_run_is_stopped_begins_anew(tmp_path):
    with pytest.raises(Stopped, match="stopped in stage note, which begins anew"):
        carried_out(tmp_path, run_file_of(tmp_path, "stopped"))


def test_what_is_done_when_the_stop_comes_is_kept(tmp_path):
    assert carried_out(tmp_path, run_file_of(tmp_path, "just_done")) == Made(model=tmp_path / "note")


@pytest.mark.parametrize(
    ("function", "arguments", "problem"),
    [
        ("plain", "{}", "must be an async def"),
        ("missing", "{}", "cannot be loaded"),
        ("note", "{wrod: hi}", "wrod"),
    ],
)
def test_a_function_that_cannot_be_a_stage_is_refused_before_anything_starts(
    tmp_path, function, arguments, problem
):
    with pytest.raises(ConfigError, match=problem):
        require_own_code(run_file_of(tmp_path, function, arguments), Source(tmp_path / "run.yaml", ()))

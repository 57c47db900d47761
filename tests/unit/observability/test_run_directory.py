import errno
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rl_empathy.config.changes import require_steps_to_come
from rl_empathy.config.loading import load_run_file
from rl_empathy.config.run_file import RunFile
from rl_empathy.errors import RunDirectoryError
from rl_empathy.observability.run_directory import RunDirectory

HOLD = """
import sys
from pathlib import Path
from rl_empathy.config.changes import require_steps_to_come
from rl_empathy.config.loading import load_run_file
from rl_empathy.observability.run_directory import RunDirectory
run_file = load_run_file(sys.argv[1], sys.argv[2:])
held = RunDirectory.open(run_file, fresh=False, allow_config_change=False)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make_run_file(*overrides: str) -> RunFile:
    Path("trial.yaml").write_text("model: {from_scratch: {}}\nrun: {directory: my runs}\n")
    return load_run_file("trial.yaml", overrides)


def opened(*overrides: str, fresh: bool = False, allow_config_change: bool = False) -> RunDirectory:
    return RunDirectory.open(make_run_file(*overrides), fresh=fresh, allow_config_change=allow_config_change)


@contextmanager
def held_elsewhere() -> Iterator[subprocess.Popen[str]]:
    make_run_file()
    command = [sys.executable, "-c", HOLD, "trial.yaml"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


def test_a_run_gets_a_private_directory_with_its_resolved_configuration() -> None:
    held = opened()
    assert held.path == Path("my runs/trial").absolute(), "the roles of a run may work elsewhere"
    assert stat.S_IMODE(held.path.stat().st_mode) == 0o700
    assert load_run_file(held.path / "config.yaml") == make_run_file()
    assert (held.attempt, held.resumed, held.logs) == (1, False, held.path / "logs/attempt_01")
    assert load_run_file(held.logs / "config.yaml") == make_run_file()


def test_a_directory_that_was_opened_to_others_is_private_again() -> None:
    opened().close()
    Path("my runs/trial").chmod(0o755)
    opened().close()
    assert stat.S_IMODE(Path("my runs/trial").stat().st_mode) == 0o700


def test_the_split_is_on_record_with_what_was_kept_together() -> None:
    directory = opened()
    links = [("a", "b", "near_copy"), ("c", "d", "shared_reference")]
    directory.require_same_split(["a", "b"], links, allow_change=False)
    record = json.loads((directory.path / "split.json").read_text())
    assert record["held_out"] == ["a", "b"]
    assert [(link["one"], link["reason"], link["side"]) for link in record["kept_together"]] == [
        ("a", "near_copy", "held_out"),
        ("c", "shared_reference", "train"),
    ]
    directory.close()


def test_a_run_goes_on_with_the_prompts_that_it_held_out() -> None:
    first = opened()
    first.require_same_split(["a", "b"], [], allow_change=False)
    first.close()
    again = opened()
    again.require_same_split(["a", "b"], [], allow_change=False)
    with pytest.raises(RunDirectoryError, match=r"held out other prompts .*split\.json\).*--fresh"):
        again.require_same_split(["a", "c"], [], allow_change=False)
    again.require_same_split(["a", "c"], [], allow_change=True)
    again.require_same_split(["a", "c"], [], allow_change=False)
    (again.path / "split.json").write_text("{}")
    with pytest.raises(RunDirectoryError, match=r"split\.json is damaged; delete it"):
        again.require_same_split(["a", "c"], [], allow_change=False)


def test_the_same_name_again_is_the_next_attempt() -> None:
    opened().close()
    second = opened()
    assert (second.attempt, second.resumed, second.logs.name) == (2, True, "attempt_02")


def test_attempts_count_on_when_an_old_log_was_deleted() -> None:
    for _ in range(2):
        opened().close()
    (Path("my runs/trial/logs/attempt_01/config.yaml")).unlink()
    Path("my runs/trial/logs/attempt_01").rmdir()
    assert opened().attempt == 3


def test_a_second_living_run_is_refused_and_told_who_holds_it() -> None:
    with held_elsewhere() as process:
        for fresh in (False, True):
            with pytest.raises(RunDirectoryError, match=f"process {process.pid} on host .*another run.name"):
                opened(fresh=fresh)
    assert [path.name for path in Path("my runs").iterdir()] == ["trial"]


def test_two_runs_of_other_names_live_side_by_side() -> None:
    with held_elsewhere():
        assert opened("run.name=other").attempt == 1


def test_the_lock_of_a_killed_run_is_no_obstacle() -> None:
    with held_elsewhere() as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
        assert json.loads(Path("my runs/trial/.lock").read_text())["pid"] == process.pid
        assert opened().attempt == 2


def test_a_refused_start_leaves_no_lock_behind() -> None:
    opened().close()
    with pytest.raises(RunDirectoryError):
        opened("grpo.num_steps=7")
    assert opened().attempt == 2


def test_a_changed_configuration_is_refused_with_the_difference() -> None:
    opened().close()
    with pytest.raises(RunDirectoryError) as raised:
        opened("grpo.num_steps=7", "grpo.group_size=4")
    lines = str(raised.value).splitlines()
    assert lines[1:3] == ["  grpo.num_steps: 100 -> 7", "  grpo.group_size: 8 -> 4"]
    assert "--allow-config-change" in lines[3]
    assert load_run_file("my runs/trial/config.yaml").grpo.num_steps == 100


def test_an_allowed_change_is_written_down_and_the_attempt_before_keeps_its_own() -> None:
    opened().close()
    held = opened("grpo.num_steps=7", allow_config_change=True)
    assert load_run_file(held.path / "config.yaml").grpo.num_steps == 7
    assert load_run_file(held.path / "logs/attempt_01/config.yaml").grpo.num_steps == 100


def test_what_is_not_computed_may_change() -> None:
    opened().close()
    changes = (
        "cluster.rollout_workers.min=2",
        "logging.wandb=disabled",
        "serve.port=9",
        "run.directory=./my runs",
    )
    assert opened(*changes).resumed
    assert load_run_file("my runs/trial/config.yaml").cluster.rollout_workers.min == 2


def test_a_deterministic_run_keeps_its_workers() -> None:
    deterministic = ("run.deterministic=true", "grpo.max_staleness=0")
    opened(*deterministic).close()
    with pytest.raises(RunDirectoryError, match=r"rollout_workers\.min: 1 -> 2"):
        opened(*deterministic, "cluster.rollout_workers.min=2")
    assert opened(*deterministic, "cluster.deadlines.sample_s=9", "cluster.address=local").resumed


def test_a_damaged_configuration_is_refused_until_allowed() -> None:
    opened().close()
    Path("my runs/trial/config.yaml").write_text("model: {from_scra")
    with pytest.raises(RunDirectoryError, match=r"cannot be read: (.|\n)*--allow-config-change"):
        opened()
    assert opened(allow_config_change=True).attempt == 2


def test_fresh_sets_the_old_directory_aside_and_begins_anew() -> None:
    for mark in ("a", "b", "c"):
        held = opened(f"grpo.num_steps={ord(mark)}", fresh=True)
        assert (held.attempt, held.resumed) == (1, False)
        (held.path / mark).touch()
        held.close()
    aside = [path for path in Path("my runs").iterdir() if path.name.startswith("trial.set-aside-")]
    assert sorted(file.name for path in aside for file in path.glob("?")) == ["a", "b"]


def test_a_finished_stage_is_remembered_by_the_next_attempt() -> None:
    first = opened()
    assert first.stage_result("sft") is None
    first.finish_stage("sft", {"loss": 0.5, "note": "静"})
    first.close()
    second = opened()
    assert second.stage_result("sft") == {"loss": 0.5, "note": "静"}
    assert second.stage_result("grpo") is None
    assert second.stage("evaluate").name == "evaluation"


@pytest.mark.parametrize("text", ["", '{"loss": 0.', "[1]"])
def test_a_damaged_result_is_named(text: str) -> None:
    held = opened()
    (held.stage("sft") / "result.json").write_text(text)
    with pytest.raises(RunDirectoryError, match=r"sft/result.json is damaged; delete it"):
        held.stage_result("sft")


def test_the_summary_says_what_is_there() -> None:
    held = opened()
    for name in ("step_000020", "step_000040", "step_000060.tmp-1a2b"):
        (held.stage("grpo") / name).mkdir()
    (held.stage("grpo") / "latest").write_text("step_000040\n")
    held.finish_stage("sft", {})
    held.stage("reward_modeling")
    (held.path / "metrics.jsonl").write_text("{}\n{}\n")
    assert held.summary() == [
        f"run trial, attempt 1, in {Path.cwd()}/my runs/trial",
        "  sft              finished",
        "  reward_modeling  begins anew: no checkpoint",
        "  grpo             goes on from its checkpoints step_000020 step_000040, latest step_000040",
        "  evaluate         not begun",
        "  metrics.jsonl has 2 lines",
    ]


def test_a_folder_that_is_something_else_is_left_alone() -> None:
    Path("my runs/trial").mkdir(parents=True, mode=0o755)
    Path("my runs/trial/thesis.tex").touch()
    for fresh in (False, True):
        with pytest.raises(RunDirectoryError, match=r"not a run directory: it has thesis\.tex"):
            opened(fresh=fresh)
    assert stat.S_IMODE(Path("my runs/trial").stat().st_mode) == 0o755


def test_a_start_that_was_killed_before_its_configuration_is_taken_over() -> None:
    Path("my runs/trial/logs").mkdir(parents=True)
    Path("my runs/trial/.lock").touch()
    Path("my runs/trial/.config.yaml.tmp").write_text("mod")
    assert not opened().resumed


def test_a_file_in_the_way_is_named() -> None:
    Path("my runs").mkdir()
    Path("my runs/trial").touch()
    with pytest.raises(RunDirectoryError, match="my runs/trial is a file"):
        opened()


def test_a_parent_that_cannot_hold_folders_is_named() -> None:
    Path("my runs").touch()
    with pytest.raises(RunDirectoryError, match=r"my runs/trial: .*set run\.directory"):
        opened()


def test_a_full_disk_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunDirectoryError, match=r"No space left on device .* MiB are free there; make room"):
        opened()


def test_changed_data_is_refused_until_allowed() -> None:
    held = opened()
    held.require_same_data("a" * 64, "posts.jsonl", allow_change=False)
    held.close()
    again = opened()
    again.require_same_data("a" * 64, "posts.jsonl", allow_change=False)
    with pytest.raises(RunDirectoryError, match=r"posts.jsonl, has changed .*aaaaaaaaaaaa… -> bbbbbbbbbbbb…"):
        again.require_same_data("b" * 64, "posts.jsonl", allow_change=False)
    again.require_same_data("b" * 64, "posts.jsonl", allow_change=True)
    again.require_same_data("b" * 64, "posts.jsonl", allow_change=False)


def finished(
    *overrides: str, stages: tuple[str, ...] = ("sft", "reward_modeling", "grpo", "evaluate")
) -> Path:
    """A run whose stages are finished, as an attempt leaves it."""
    held = opened(*overrides)
    for stage in stages:
        held.begin_stage(stage)
        held.finish_stage(stage, {"of": stage})
    (held.path / "model").mkdir()
    (held.path / "rollouts").mkdir()
    (held.path / "base").mkdir()
    (held.path / "base" / "config.json").write_text("{}")
    held.close()
    return held.path


def left(held: RunDirectory) -> list[str]:
    """Stages that are still to be done."""
    return [s for s in ("sft", "reward_modeling", "grpo", "evaluate") if held.stage_result(s) is None]


@pytest.mark.parametrize(
    ("stage", "steps", "to_do"),
    [
        ("sft", 200, ["sft", "grpo", "evaluate"]),
        ("reward_modeling", 200, ["reward_modeling", "grpo", "evaluate"]),
        ("grpo", 200, ["grpo", "evaluate"]),
    ],
)
def test_a_finished_stage_that_is_asked_for_more_steps_goes_on_and_what_took_its_model_is_done_again(
    stage: str, steps: int, to_do: list[str]
) -> None:
    finished("sft.num_steps=100")
    held = opened("sft.num_steps=100", f"{stage}.num_steps={steps}", allow_config_change=True)
    assert left(held) == to_do
    assert not held.is_finished
    assert held.told[0].startswith(
        f"stage {stage} is trained further from its last checkpoint: {stage}.num_steps"
    )


def test_an_echo_may_be_accepted_at_any_time() -> None:
    finished()
    held = opened("reward_modeling.accept_echo=true")
    assert held.is_finished


def test_what_took_a_model_that_is_trained_further_is_set_aside_with_its_rollouts() -> None:
    path = finished("sft.num_steps=100")
    (path / "grpo" / "latest").write_text("step_000100\n")
    (path / "ledger.jsonl").write_text("{}\n")
    held = opened("sft.num_steps=200", allow_config_change=True)
    (aside,) = held.path.glob("grpo.set-aside-*")
    assert sorted(entry.name for entry in aside.iterdir()) == [
        "latest", "ledger.jsonl", "result.json", "rollouts", "trained_with.yaml"
    ]  # fmt: skip
    assert not (held.path / "grpo").exists()
    assert not (held.path / "ledger.jsonl").exists()


def test_more_steps_are_not_forgotten_when_the_attempt_that_was_asked_for_them_is_killed_at_once() -> None:
    finished("sft.num_steps=100")
    opened("sft.num_steps=100", "grpo.num_steps=200", allow_config_change=True).close()
    assert left(opened("sft.num_steps=100", "grpo.num_steps=200")) == ["grpo", "evaluate"]


@pytest.mark.parametrize(
    "override",
    [
        "grpo.num_steps=50",
        "grpo.optimizer.learning_rate=0.5",
        "sft.num_epochs=9",
        "reward_modeling.margin=0.7",
        "data.language=zh",
        "run.seed=7",
        "model.dtype=bfloat16",
        "schema=think_answer data.missing_trace=drop",
        "run.stages=[reward_modeling,grpo,evaluate]",
    ],
)
def test_a_finished_run_is_never_said_to_be_what_it_was_not_trained_with(override: str) -> None:
    path = finished()
    before = (path / "config.yaml").read_text()
    with pytest.raises(RunDirectoryError, match=r"--fresh"):
        opened(*override.split(), allow_config_change=True)
    assert (path / "config.yaml").read_text() == before


@pytest.mark.parametrize("left_behind", ["sft/result.json", "grpo/step_000020/policy.safetensors"])
def test_a_local_model_that_stays_where_it_is_cannot_be_another_one_once_it_was_trained(
    left_behind: str,
) -> None:
    held = opened()
    there = held.path / left_behind
    there.parent.mkdir(parents=True)
    there.write_text("{}")
    held.close()
    with pytest.raises(RunDirectoryError, match=r"the starting model is there, and would not be trained"):
        opened("model.dtype=bfloat16", allow_config_change=True)


def test_before_anything_was_trained_the_starting_model_may_be_another_one() -> None:
    held = opened()
    held.begin_stage("sft")
    held.close()
    opened("model.dtype=bfloat16", allow_config_change=True).close()


def test_an_evaluation_of_another_model_is_done_again() -> None:
    held = opened("run.stages=[evaluate]")
    held.begin_stage("evaluate")
    held.finish_stage("evaluate", {})
    held.close()
    assert (
        left(opened("run.stages=[evaluate]", "model.dtype=bfloat16", allow_config_change=True))[-1]
        == "evaluate"
    )


def test_a_change_for_the_stages_to_come_leaves_a_finished_one_with_the_run_file_that_it_was_trained_with() -> (
    None
):
    path = finished(stages=("sft",))
    held = opened("data.max_prompt_tokens=99", "grpo.group_size=4", allow_config_change=True)
    assert left(held) == ["reward_modeling", "grpo", "evaluate"]
    assert held.told == (
        "stage sft is finished and stays as it was trained: data.max_prompt_tokens: 512 -> 99",
    )
    assert load_run_file(path / "sft/trained_with.yaml").data.max_prompt_tokens == 512
    assert load_run_file(path / "config.yaml").data.max_prompt_tokens == 99


@pytest.mark.parametrize(
    "override", ["evaluate.num_prompts=9", "run.stages=[sft,reward_modeling,grpo,evaluate]"]
)
def test_an_evaluation_that_is_asked_for_other_prompts_is_done_again(override: str) -> None:
    stages = ("sft", "reward_modeling", "grpo")
    finished("run.stages=[sft,reward_modeling,grpo]", stages=stages)
    held = opened("run.stages=[sft,reward_modeling,grpo,evaluate]", allow_config_change=True)
    assert left(held) == ["evaluate"]
    held.begin_stage("evaluate")
    held.finish_stage("evaluate", {})
    held.close()
    assert left(opened(override, allow_config_change=True)) == (["evaluate"] if "prompts" in override else [])


def test_other_rows_for_a_finished_run_are_refused_since_nothing_would_be_trained_on_them() -> None:
    finished()
    held = opened()
    held.require_same_data("a" * 64, "posts.jsonl", allow_change=True)
    with pytest.raises(RunDirectoryError, match="has changed since it was finished"):
        held.require_same_data("b" * 64, "posts.jsonl", allow_change=True)


def test_fewer_steps_than_were_trained_are_refused_with_the_way_out() -> None:
    with pytest.raises(
        RunDirectoryError, match=r"grpo has trained for 60 steps .* asks for 50; ask for 60 or more"
    ):
        require_steps_to_come("grpo", 60, 50)
    require_steps_to_come("grpo", 60, 60)

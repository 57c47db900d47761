import errno
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from rl_empathy import checking
from rl_empathy.cli import app, main
from rl_empathy.config.loading import dump_run_file, load_run_file
from rl_empathy.errors import ConfigError, ResourceError, RlEmpathyError, Stopped
from rl_empathy.schema import NAMED_SCHEMAS
from rl_empathy.startup import exit_code, prepare_environment


class Recorder:
    """Remembers what it was called with, and returns an exit code."""

    def __init__(self, code: int = 0) -> None:
        self.code = code
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __call__(self, *arguments: Any, **named: Any) -> int:
        self.calls.append((arguments, named))
        return self.code


class Raises:
    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __call__(self, *_: object, **__: object) -> int:
        raise self._error


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_TRAIN_V2_ENABLED"):
        monkeypatch.setenv(name, "x")  # so that what the command sets is undone
        monkeypatch.delenv(name)
    Path("trial.yaml").write_text("model: {from_scratch: {}}\n")


def code_of(*arguments: str) -> int:
    return exit_code(lambda: app(list(arguments), prog_name="rl-empathy", standalone_mode=False))


def plant(monkeypatch: pytest.MonkeyPatch, module: str, **functions: Any) -> None:
    """Stand in for a heavy module that a command imports when it runs."""
    fake = types.ModuleType(module)
    for name, function in functions.items():
        setattr(fake, name, function)
    monkeypatch.setitem(sys.modules, module, fake)


def make_run_directory(name: str = "done") -> Path:
    folder = Path("runs") / name
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").touch()
    (folder / "config.yaml").write_text(dump_run_file(load_run_file("trial.yaml", [f"run.name={name}"])))
    return folder


@pytest.mark.parametrize("command", ["train", "evaluate", "serve"])
def test_every_command_module_answers_help(command: str) -> None:
    run = [sys.executable, "-m", f"rl_empathy.{command}", "--help"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60, check=True)
    assert f"rl-empathy {command}" in done.stdout


def test_help_check_and_reference_import_nothing_heavy() -> None:
    program = (
        "import sys\nfrom rl_empathy.cli import app\n"
        "for line in ['--help', 'train --check trial.yaml', 'config --reference']:\n"
        "    app(line.split(), standalone_mode=False)\n"
        "heavy = {'torch', 'ray', 'transformers', 'vllm', 'wandb', 'datasets'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def make_model_folder(name: str, template: str) -> None:
    """What --check reads of a model: its shape, and the files of its tokenizer."""
    Path(name).mkdir()
    Path(name, "config.json").write_text(json.dumps({"model_type": "llama"}))
    settings = {"eos_token": "</s>", "chat_template": template}
    Path(name, "tokenizer_config.json").write_text(json.dumps(settings))
    words = {"type": "WordLevel", "vocab": {"</s>": 0}, "unk_token": "</s>"}
    Path(name, "tokenizer.json").write_text(
        json.dumps({"version": "1.0", "model": words, "added_tokens": []})
    )
    Path("local.yaml").write_text(f"model: {{path: ./{name}}}\n")


def test_check_refuses_a_template_that_the_run_cannot_use(capsys: pytest.CaptureFixture[str]) -> None:
    make_model_folder(
        "strict", "{% for m in messages if m['role'] != 'system' %}{{ m['content'] + eos_token }}{% endfor %}"
    )
    assert code_of("train", "local.yaml", "--check") == 2
    assert "set data.system_prompt_role: user" in capsys.readouterr().err
    for way_out in ("data.system_prompt_role=user", "data.system_prompt=''", "model.chat_template=roles"):
        assert code_of("train", "local.yaml", "--check", way_out) == 0


def test_check_tells_what_is_changed_of_a_template(capsys: pytest.CaptureFixture[str]) -> None:
    make_model_folder(
        "dated", "{{ strftime_now('%Y') }}{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}"
    )
    assert code_of("train", "local.yaml", "--check") == 0
    assert "# warning: the chat template writes the date" in capsys.readouterr().out


def test_check_prints_a_file_that_loads_again_and_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("train", "grpo.num_steps=7", "--check", "trial.yaml", "grpo.group_size=4") == 0
    printed = capsys.readouterr().out
    Path("resolved.yaml").write_text(printed)
    assert load_run_file("resolved.yaml") == load_run_file(
        "trial.yaml", ["grpo.num_steps=7", "grpo.group_size=4"]
    )
    assert "# 3. grpo: 7 steps of 8 groups of 4" in printed
    assert sorted(path.name for path in Path().iterdir()) == ["resolved.yaml", "trial.yaml"]


def test_check_refuses_a_plan_beyond_the_memory_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checking, "machine_bytes", lambda: 1 << 30)
    assert code_of("train", "trial.yaml", "--check") == 3
    assert "of the 1.0 GiB of memory of this machine" in (told := capsys.readouterr().err)
    assert "too much. Smaller make it: " in told


def test_check_warns_of_a_warm_up_that_never_ends(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("train", "trial.yaml", "--check", "grpo.num_steps=3", "grpo.optimizer.warmup_steps=8") == 0
    assert "# warning: grpo: its 3 optimizer steps never leave the warm-up of 8" in capsys.readouterr().out


@pytest.mark.parametrize("stages", ["[sft,grpo]", "[grpo]", "[grpo,reward_modeling]"])
def test_check_refuses_a_stage_that_lacks_what_another_would_give_it(
    stages: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code_of("train", "trial.yaml", f"run.stages={stages}", "--check") == 2
    told = capsys.readouterr().err
    assert "the reward term answer needs the reward model of stage reward_modeling" in told
    assert f"  override 'run.stages={stages}'  run.stages: the reward term" in told
    assert "no stage reward_modeling before grpo; add it, or leave the term out of rewards.terms" in told
    assert (
        code_of("train", "trial.yaml", f"run.stages={stages}", "rewards.terms=[{kind: format}]", "--check")
        == 0
    )


def test_check_takes_the_answer_term_without_a_stage_that_rewards() -> None:
    assert (
        code_of(
            "train",
            "trial.yaml",
            "run.stages=[sft,evaluate]",
            "rewards.terms=[{kind: embedding, name: answer}]",
            "--check",
        )
        == 0
    )


def test_a_misspelled_key_exits_2_with_file_and_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("trial.yaml").write_text("model: {from_scratch: {}}\ngrpo:\n  num_stpes: 3\n")
    assert code_of("train", "trial.yaml") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "ConfigError: 1 problem(s) in the run file\n"
        "  trial.yaml:3  grpo.num_stpes: unknown key; did you mean `num_steps`?\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "nope.yaml"], "nope.yaml  there is no such file"),
        (["train", "trial.yaml", "other.yaml"], "give one run file (RUN.yaml), got trial.yaml, other.yaml"),
        (["train", "grpo.num_steps=3"], "give one run file (RUN.yaml), got none"),
        (["train", "trial.yaml", "--chek"], "No such option: --chek"),
        (["config"], "rl-empathy config"),
        (["evaluate", "nope"], "nope is no folder"),
        (["serve", "nope"], "nope is no folder"),
        (["scale", "nope"], "nope is no folder"),
        (["scale", "."], "no run directory"),
        (["serve", "a", "b"], "serve takes one run directory or model folder, got 2"),
        (["annotate", "in.jsonl", "out.jsonl", "--column", "prompt"], "--column wants prompt=FIELD"),
        (["annotate", "in.jsonl", "out.jsonl", "--schema", "nope"], "nope"),
        (["annotate", "in.jsonl", "out.jsonl"], "in.jsonl"),
    ],
)
def test_a_wrong_argument_exits_2_without_a_traceback(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code_of(*arguments) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert "Traceback" not in printed


def test_scale_asks_a_run_for_a_number_and_takes_it_back() -> None:
    asked = make_run_directory() / "rollout_workers.json"
    assert code_of("scale", "runs/done", "--rollout-workers", "3") == 0
    assert asked.read_text() == '{"rollout_workers": 3}\n'
    assert code_of("scale", "runs/done") == 0
    assert not asked.exists()


def test_scale_of_a_run_that_needs_no_workers_any_more_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run_directory() / "grpo"
    folder.mkdir()
    (folder / "result.json").write_text("{}")
    assert code_of("scale", "runs/done", "--rollout-workers", "3") == 2
    assert "stage grpo of the run runs/done is finished" in capsys.readouterr().err


def test_a_setting_that_is_longer_than_a_file_name_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    Path("trial.yaml").write_text("model: {from_scratch: {}}\n")
    assert code_of("train", "trial.yaml", "--check", f"data.system_prompt={'long ' * 100}") == 0
    assert "long long" in capsys.readouterr().out


def test_a_folder_that_is_neither_run_nor_model_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    for command in ("serve", "evaluate"):
        assert code_of(command, "empty") != 0
        assert "empty is no run directory (no config.yaml) and no model folder" in capsys.readouterr().err


def test_a_deterministic_run_keeps_its_workers(capsys: pytest.CaptureFixture[str]) -> None:
    Path("trial.yaml").write_text(
        "model: {from_scratch: {}}\nrun: {deterministic: true}\ngrpo: {max_staleness: 0}\n"
    )
    make_run_directory()
    assert code_of("scale", "runs/done", "--rollout-workers", "3") == 2
    assert "runs/done is deterministic" in capsys.readouterr().err
    assert not Path("runs/done/rollout_workers.json").exists()


def test_the_reference_lists_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("config", "--reference") == 0
    assert "grpo.max_staleness: int ≥ 0 = 1" in capsys.readouterr().out


def test_config_prints_the_run_file_as_it_resolves(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("config", "trial.yaml", "run.seed=5") == 0
    assert "  seed: 5\n" in capsys.readouterr().out


def test_train_hands_over_the_run_file_and_returns_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Recorder(75)
    plant(monkeypatch, "rl_empathy.orchestration.run", run=run)
    assert code_of("train", "--fresh", "trial.yaml", "run.seed=5") == 75
    expected = load_run_file("trial.yaml", ["run.seed=5"])
    assert run.calls == [((expected,), {"fresh": True, "allow_config_change": False})]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("wrong"), 2),
        (ResourceError("2 GPUs wanted, 0 there"), 3),
        (RlEmpathyError("broken"), 4),
        (Stopped("at step 3"), 75),
        (ExceptionGroup("tasks", [ValueError("x"), ResourceError("2 GPUs wanted, 0 there")]), 3),
    ],
)
def test_errors_of_ours_are_one_text_and_their_exit_code(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(monkeypatch, "rl_empathy.orchestration.run", run=Raises(error))
    assert code_of("train", "trial.yaml") == code
    printed = capsys.readouterr().err
    meant = error.exceptions[1] if isinstance(error, ExceptionGroup) else error
    assert printed == f"{type(meant).__name__}: {meant}\n"


def test_what_a_command_writes_is_for_its_owner_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = tmp_path / "transcripts" / "all.jsonl"

    def write(*_: Any, **__: Any) -> int:
        written.parent.mkdir()
        return written.write_text("x") - 1

    plant(monkeypatch, "rl_empathy.orchestration.run", run=write)
    before = os.umask(0o022)
    try:
        assert code_of("train", "trial.yaml") == 0
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    assert [oct(path.stat().st_mode)[-3:] for path in (written.parent, written)] == ["700", "600"]


STOPPED_AFTER_ITS_RESULT = """
import sys
from rl_empathy.errors import Stopped
from rl_empathy.observability.streams import go_on_unseen
from rl_empathy.startup import exit_code

def command():
    go_on_unseen()
    print("result", flush=True)
    raise Stopped("at step 3")

sys.exit(exit_code(command))
"""


def start_stopped(stdout: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", STOPPED_AFTER_ITS_RESULT]
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE)


def test_a_run_keeps_its_exit_code_when_whoever_read_its_output_is_gone() -> None:
    process = start_stopped(subprocess.PIPE)
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    process.stderr.close()
    assert process.wait(timeout=60) == 75


def test_a_result_that_a_full_disk_does_not_take_is_an_error() -> None:
    with Path("/dev/full").open("wb") as full:
        process = start_stopped(full)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 3
    assert b"the disk is full" in said


def test_an_error_from_a_ray_task_is_told_without_its_remote_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrapped = RuntimeError("a long remote traceback")
    wrapped.cause = ResourceError("no room")  # type: ignore[attr-defined]
    plant(monkeypatch, "rl_empathy.orchestration.run", run=Raises(wrapped))
    assert code_of("train", "trial.yaml") == 3
    assert capsys.readouterr().err == "ResourceError: no room\n"


@pytest.mark.parametrize(
    ("error", "where"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/trial/metrics.jsonl"),
            "runs/trial/metrics.jsonl",
        ),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "I/O error"),
    ],
)
def test_a_full_disk_is_told_with_what_to_do(
    error: Exception, where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(monkeypatch, "rl_empathy.orchestration.run", run=Raises(error))
    assert code_of("train", "trial.yaml") == 3
    told = capsys.readouterr().err
    assert f"the disk is full: {where}" in told
    assert "; make room" in told


def test_an_unexpected_error_leaves_its_traceback_in_the_run_and_exits_4(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for attempt in ("attempt_01", "attempt_02"):
        Path("runs/trial/logs", attempt).mkdir(parents=True)
    plant(monkeypatch, "rl_empathy.orchestration.run", run=Raises(ZeroDivisionError("division by zero")))
    assert code_of("train", "trial.yaml") == 4
    printed = capsys.readouterr().err
    assert "ZeroDivisionError: division by zero" in printed
    assert "kept in runs/trial/logs/attempt_02/traceback.log" in printed
    assert "ZeroDivisionError" in Path("runs/trial/logs/attempt_02/traceback.log").read_text()


def test_ctrl_c_exits_130(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, "rl_empathy.orchestration.run", run=Raises(KeyboardInterrupt()))
    assert code_of("train", "trial.yaml") == 130


def test_evaluate_takes_the_configuration_of_the_first_run(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate_command = Recorder()
    plant(monkeypatch, "rl_empathy.orchestration.side_by_side", evaluate_command=evaluate_command)
    Path("bare").mkdir()
    Path("bare/config.json").touch()
    folder = make_run_directory()
    assert code_of("evaluate", "bare", "evaluate.num_prompts=3", str(folder), "--output", "out.json") == 0
    ((paths, run_file, output), _) = evaluate_command.calls[0]
    assert (paths, output) == ([Path("bare"), folder], Path("out.json"))
    assert (run_file.run.name, run_file.evaluate.num_prompts) == ("done", 3)


@pytest.mark.parametrize("options", [[], ["--all"]])
def test_evaluate_prints_every_measure_when_asked(
    monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    evaluate_command = Recorder()
    plant(monkeypatch, "rl_empathy.orchestration.side_by_side", evaluate_command=evaluate_command)
    assert code_of("evaluate", str(make_run_directory()), *options) == 0
    ((_, named),) = evaluate_command.calls
    assert named["show_all"] is bool(options)


def test_an_output_that_is_a_folder_is_refused_before_the_evaluation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(monkeypatch, "rl_empathy.orchestration.side_by_side", evaluate_command=Recorder())
    folder = make_run_directory()
    Path("results").mkdir()
    assert code_of("evaluate", str(folder), "--output", "results") == 2
    assert "is a directory" in capsys.readouterr().err


def test_evaluate_of_bare_models_wants_a_run_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(monkeypatch, "rl_empathy.orchestration.side_by_side", evaluate_command=Recorder())
    Path("bare").mkdir()
    Path("bare/config.json").touch()
    assert code_of("evaluate", "bare") == 2
    assert "give --run-file RUN.yaml" in capsys.readouterr().err
    assert code_of("evaluate", "bare", "--run-file", "trial.yaml") == 0


def test_serve_of_a_run_serves_its_released_model(monkeypatch: pytest.MonkeyPatch) -> None:
    serve = Recorder()
    plant(monkeypatch, "rl_empathy.serving.app", serve=serve)
    folder = make_run_directory()
    for path in (folder, folder / "model"):
        assert code_of("serve", str(path), "--port", "9000", "--show-reasoning") == 0
    for (model, config, schema), named in serve.calls:
        assert model == folder / "model"
        assert (config.port, config.show_reasoning, config.host) == (9000, True, "127.0.0.1")
        assert schema == load_run_file("trial.yaml").schema_declaration
        assert (named["model_name"], named["system_prompt"]) == ("done", schema.instruction("en"))


def test_serve_listens_on_loopback_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("serve", str(make_run_directory()), "--host", "0.0.0.0") == 2
    assert "serve.host: Input should be '127.0.0.1'" in capsys.readouterr().err


def test_serve_of_an_unfinished_run_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run_directory()
    (folder / "model" / "config.json").unlink()
    (folder / "model").rmdir()
    assert code_of("serve", str(folder)) == 2
    assert "has released no model yet" in capsys.readouterr().err


def test_annotate_writes_traces_with_the_offline_teacher(capsys: pytest.CaptureFixture[str]) -> None:
    Path("in.jsonl").write_text(
        '{"id": "1", "messages": [{"role": "user", "content": "My manager shouts at me every day."}], '
        '"references": [{"text": "That sounds exhausting, and it is not your fault."}]}\n'
    )
    assert code_of("annotate", "in.jsonl", "out.jsonl", "--schema", "trial.yaml") == 0
    assert capsys.readouterr().out == "out.jsonl: 1 rows with a trace, 0 of which had it before\n"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "1 rows speak of acute risk and were left out (--on-risk)"),
        (["--on-risk", "template"], "1 rows speak of acute risk and got the fixed safe reply"),
        (["--on-risk", "keep"], "out.jsonl: 2 rows with a trace"),
    ],
)
def test_annotate_treats_rows_of_acute_risk_as_asked(
    options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    posts = ("My manager shouts at me every day.", "I want to kill myself tonight.")
    rows = [
        {"id": str(i), "prompt": post, "references": [{"text": "I hear you."}]}
        for i, post in enumerate(posts)
    ]
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert code_of("annotate", "in.jsonl", "out.jsonl", *options) == 0
    assert told in capsys.readouterr().out


def test_the_environment_is_prepared_but_what_is_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    prepare_environment()
    assert os.environ["RAY_TRAIN_V2_ENABLED"] == "1"
    assert "RAY_AUTH_MODE" not in os.environ
    Path(".ray").mkdir()
    Path(".ray/auth_token").write_text("t")
    prepare_environment()
    assert os.environ["RAY_AUTH_MODE"] == "token"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    prepare_environment()
    assert os.environ["RAY_AUTH_MODE"] == "disabled"


def test_main_ends_the_process_with_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "nope.yaml"])
    with pytest.raises(SystemExit) as raised:
        main("train")
    assert raised.value.code == 2


def test_config_says_what_differs_between_two_run_files(capsys: pytest.CaptureFixture[str]) -> None:
    Path("other.yaml").write_text("extends: trial.yaml\ngrpo: {num_steps: 7}\n")
    assert code_of("config", "--diff", "trial.yaml", "other.yaml") == 0
    assert capsys.readouterr().out == 'run.name: "trial" -> "other"\ngrpo.num_steps: 100 -> 7\n'
    assert code_of("config", "--diff", "trial.yaml") == 2
    assert "--diff wants two run files, got trial.yaml" in capsys.readouterr().err


def test_config_shows_every_schema_as_it_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("config", "--schemas") == 0
    shown = capsys.readouterr().out
    assert "schema: think_answer   (its answer is the span answer)\n    <think>\n" in shown
    assert all(f"schema: {name} " in shown for name in NAMED_SCHEMAS)


def test_curves_are_drawn_again_of_every_stage_that_trains(capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run_directory()
    assert code_of("curves", str(run)) == 2
    assert "runs/done has no curves: none of its stages has trained a step yet" in capsys.readouterr().err
    lines = [
        {"stage": "sft", "step": step, "sft/loss": loss} for step, loss in enumerate([3.0, 2.0, 1.0], start=1)
    ]
    lines += [{"stage": "evaluate", "step": step, "reward/mean": step} for step in (1, 2)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert code_of("curves", str(run)) == 0
    assert capsys.readouterr().out == "sft: 3 step(s)\n  sft/loss         3 █▅▁ 1\n"


def test_curves_are_those_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run_directory()
    assert code_of("curves", str(run / "model")) == 2
    assert "runs/done/model is a model folder; give the run directory" in capsys.readouterr().err
    assert code_of("curves", "nowhere") == 2
    assert "nowhere is no folder" in capsys.readouterr().err


def test_all_functions_that_cannot_be_used_are_told_of_at_once_with_their_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    terms = "rewards:\n  terms:\n    - {kind: function, function: no_such.one}\n    - {kind: format}\n"
    terms += "    - {kind: function, function: os.path.joyn}\n"
    stages = "run:\n  stages: [sft]\n  own_stages:\n    - {name: mine, function: os.getcwd}\n"
    Path("own.yaml").write_text("model: {from_scratch: {}}\n" + terms + stages)
    assert code_of("train", "own.yaml", "--check") == 2
    told = capsys.readouterr().err
    assert told.startswith(
        "ConfigError: 3 problem(s) in the run file\n  own.yaml:4  rewards.terms[0]: function 'no_such"
    )
    assert "\n  own.yaml:6  rewards.terms[2]: " in told
    assert "did you mean os.path.join?" in told
    assert "\n  own.yaml:10  run.own_stages[0]: stage mine: os.getcwd must be an async def" in told

"""The user's functions are tried once by the check, not first after hours of training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rl_empathy.checking import print_check
from rl_empathy.config.loading import read_run_file
from rl_empathy.errors import ConfigError

ROWS = [
    {
        "id": f"row-{n}",
        "prompt": f"Since the {word} I lie awake.",
        "references": [{"text": f"The {word} weighs on you."}],
    }
    for n, word in enumerate(["storm", "exam", "move"])
]
FUNCTIONS = """
import asyncio, statistics, sys, threading

async def words(view):
    return [len(answer.split()) for answer in view.answers]

def share(view):
    return [answer.count("you") / len(answer.split()) for answer in view.answers]

def single(view):
    return 1.0

def waits(view):
    threading.Event().wait(2)
    return [1.0] * len(view.completions)

def never(view):
    threading.Event().wait()

def leaves(view):
    sys.exit(3)

def spread(view):
    return [statistics.stdev(len(answer) for answer in view.answers)] * len(view.completions)

def by_token(view):
    return [1 / one.tokens for one in view.completions]

GATE = asyncio.Lock()

async def gated(view):
    async with GATE:
        await asyncio.sleep(0.01)
    return [1.0] * len(view.completions)

async def gated_too(view):
    return await gated(view)

def trl(prompts, completions, post, **rest):
    return [1.0 if post[0][:5] in text else 0.5 for text in completions]

def length(completion, row):
    return len(completion.answer)

def half(completion, row):
    return 1 / len(completion.answer)
"""


def run_file_in(folder: Path, *settings: str) -> list[str]:
    """A run file beside its data and functions: the arguments of train."""
    module = f"own_{abs(hash(folder))}"  # Python keeps a module that it has imported
    (folder / f"{module}.py").write_text(FUNCTIONS)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "run.yaml").write_text(
        "model: {from_scratch: {}}\ndata: {train: rows.jsonl, held_out_prompts: 1}\nschema: plain\n"
    )
    return ["run.yaml", *(setting.replace("own.", f"{module}.") for setting in settings)]


def checked(folder: Path, monkeypatch: pytest.MonkeyPatch, *settings: str) -> None:
    monkeypatch.chdir(folder)
    path, *given = run_file_in(folder, *settings)
    print_check(*read_run_file(path, given), show=0)


def term(name: str, kind: str = "function", **keys: str) -> str:
    return f"rewards.terms=[{entry(name, kind, **keys)}]"


def entry(name: str, kind: str = "function", **keys: str) -> str:
    more = "".join(f", {key}: {value}" for key, value in keys.items())
    return f"{{kind: {kind}, name: {name}, weight: 1, function: own.{name}{more}}}"


def measure(name: str) -> str:
    return f"evaluate.measures=[{{name: {name}, function: own.{name}, better: neither, meaning: as it says}}]"


def test_what_the_functions_say_is_shown(tmp_path, monkeypatch, capsys):
    checked(tmp_path, monkeypatch, term("words"), measure("length"))
    shown = capsys.readouterr().out
    assert "teaches, and a reply without an answer): words scores 5, 0; length measures " in shown
    checked(tmp_path, monkeypatch, term("trl", kind="trl_function"))
    assert "trl scores 0.5, 0.5" in capsys.readouterr().out


def test_several_functions_share_one_loop_and_all_that_fail_are_told(tmp_path, monkeypatch, capsys):
    checked(tmp_path, monkeypatch, f"rewards.terms=[{entry('gated')}, {entry('gated_too')}]")
    assert "gated scores 1, 1; gated_too scores 1, 1" in capsys.readouterr().out
    with pytest.raises(ConfigError) as error:
        checked(
            tmp_path, monkeypatch, f"rewards.terms=[{entry('share')}, {entry('leaves')}]", measure("half")
        )
    told = str(error.value)
    assert "rewards.terms[0]: reward term share, prompt row-" in told
    assert "rewards.terms[1]: reward term leaves" in told
    assert "it wants to end the process: SystemExit(3)" in told
    assert "evaluate.measures[0]" in told
    assert told.startswith("3 problem(s)")


def test_what_is_sound_for_real_groups_is_not_refused(tmp_path, monkeypatch, capsys):
    checked(tmp_path, monkeypatch, term("by_token"))
    for row in ROWS:
        monkeypatch.setitem(row, "references", [])
    checked(tmp_path, monkeypatch, term("spread"), "run.stages=[grpo]")
    assert "(a reply without an answer): spread scores 0, 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("share", r"reward term share, prompt row-\d: ZeroDivisionError: .* \(.*own_\d+\.py, line 8\)"),
        ("single", r"reward term single, prompt row-\d: it gave 1\.0 \(float\)"),
        ("half", r"half, a completion of row-\d: ZeroDivisionError"),
    ],
)
def test_one_that_fails_on_a_reply_without_an_answer_is_refused_with_its_line(
    tmp_path, monkeypatch, name, told
):
    with pytest.raises(ConfigError, match=told):
        checked(tmp_path, monkeypatch, measure(name) if name == "half" else term(name))


def test_one_that_never_ends_is_refused_and_the_command_ends(tmp_path):
    given = run_file_in(tmp_path, term("never", deadline_s="0.1"))
    command = [sys.executable, "-m", "rl_empathy.train", *given, "--check"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=os.environ)
    assert ended.returncode == 2
    assert "never, prompt row-" in ended.stderr
    assert "did not end within 0.1 s" in ended.stderr

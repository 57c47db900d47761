"""The user's functions are tried once by the check, not first after hours of training."""

import json
from pathlib import Path

import pytest

from rl_empathy.checking import print_check
from rl_empathy.config.loading import read_run_file
from rl_empathy.errors import ConfigError, RewardError, RoleTimeoutError

ROWS = [
    {
        "id": f"row-{n}",
        "prompt": f"Since the {word} I lie awake.",
        "references": [{"text": f"The {word} weighs on you."}],
    }
    for n, word in enumerate(["storm", "exam", "move"])
]
FUNCTIONS = """
import threading

async def words(view):
    return [len(answer.split()) for answer in view.answers]

def share(view):
    return [answer.count("you") / len(answer.split()) for answer in view.answers]

def single(view):
    return 1.0

def waits(view):
    threading.Event().wait(2)
    return [1.0] * len(view.completions)

def trl(prompts, completions, post, **rest):
    return [1.0 if post[0][:5] in text else 0.5 for text in completions]

def length(completion, row):
    return len(completion.answer)

def half(completion, row):
    return 1 / len(completion.answer)
"""


def checked(folder: Path, monkeypatch: pytest.MonkeyPatch, *settings: str) -> None:
    monkeypatch.chdir(folder)
    module = f"own_{abs(hash(folder))}"  # Python keeps a module that it has imported
    Path(f"{module}.py").write_text(FUNCTIONS)
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    Path("run.yaml").write_text(
        "model: {from_scratch: {}}\ndata: {train: rows.jsonl, held_out_prompts: 1}\nschema: plain\n"
    )
    given = [setting.replace("own.", f"{module}.") for setting in settings]
    print_check(*read_run_file("run.yaml", given), show=0)


def term(name: str, kind: str = "function", **keys: str) -> str:
    more = "".join(f", {key}: {value}" for key, value in keys.items())
    return f"rewards.terms=[{{kind: {kind}, name: {name}, weight: 1, function: own.{name}{more}}}]"


def measure(name: str) -> str:
    return f"evaluate.measures=[{{name: {name}, function: own.{name}, better: neither, meaning: as it says}}]"


def test_what_the_functions_say_is_shown(tmp_path, monkeypatch, capsys):
    checked(tmp_path, monkeypatch, term("words"), measure("length"))
    shown = capsys.readouterr().out
    assert "teaches, and an empty reply: words scores 5, 0; length measures " in shown
    checked(tmp_path, monkeypatch, term("trl", kind="trl_function"))
    assert "trl scores 0.5, 0.5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("share", r"reward term share, prompt row-\d: ZeroDivisionError: .* \(.*own_\d+\.py, line 8\)"),
        ("single", r"reward term single, prompt row-\d: it gave 1\.0 \(float\)"),
    ],
)
def test_a_reward_that_fails_on_an_empty_reply_is_refused(tmp_path, monkeypatch, name, told):
    with pytest.raises(RewardError, match=told):
        checked(tmp_path, monkeypatch, term(name))


def test_one_that_does_not_end_is_refused(tmp_path, monkeypatch):
    with pytest.raises(RoleTimeoutError, match=r"did not end within 0\.1 s"):
        checked(tmp_path, monkeypatch, term("waits", deadline_s="0.1"))


def test_a_measure_that_fails_on_an_empty_reply_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"half, a completion of row-\d: ZeroDivisionError"):
        checked(tmp_path, monkeypatch, measure("half"))

"""What users bring is read by `--check`, and what is wrong with it is refused there, with the way out."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from rl_empathy.cli import app
from rl_empathy.startup import exit_code
from tests.tiny_models import make_tiny_model
from tests.user_files import NUM_ROWS, USER_FILES, excel, settings_of

FORM = (
    "schema={name: mine, answer: reply, spans: [{name: think, open: <think>, close: </think>, description: why}, "
    "{name: reply, open: '', close: '', description: answer}]}"
)
ADAPTER = '{"base_model_name_or_path": "some/base"}'


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("own run.yaml").write_text("model: {from_scratch: {}}\n")


def check(*settings: str) -> int:
    arguments = ["train", "own run.yaml", "--check", "--show", "1", *settings]
    return exit_code(lambda: app(arguments, prog_name="rl-empathy", standalone_mode=False))


@pytest.mark.parametrize("name", USER_FILES)
def test_a_users_file_is_read(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(*settings_of(name, tmp_path), FORM, "data.missing_trace=none") == 0
    printed = capsys.readouterr().out
    assert f"{NUM_ROWS - 4} prompts to train on, 4 held out" in printed
    assert re.search(r"#   user: +(Answer warmly|我很累|Müde)", printed)
    assert re.search(r"#   target: +(我很累|Müde)", printed)


def wrong_reward(text: str) -> list[str]:
    Path("my_rewards.py").write_text("def brevity(view, *, limit):\n    return [0.0 for _ in view.answers]\n")
    return [f"rewards.terms=[{text}]"]


def folder(name: str, **files: str) -> str:
    Path(name).mkdir()
    for file, text in files.items():
        Path(name, f"{file}.json").write_text(text)
    return name


def of_excel(*settings: str) -> list[str]:
    path, read = excel(Path())
    return [f"data.train={json.dumps(str(path))}", *read, *settings]


def tiny_model(*settings: str) -> list[str]:
    make_tiny_model(Path("tiny"))
    return ["model={from_scratch: null, path: ./tiny}", *settings]


WRONG: dict[str, tuple[Callable[[], list[str]], str]] = {
    "a misspelt column": (
        lambda: of_excel("data.columns={prompt: Pots, answer: Reply}"),
        r'there is no field "Pots"; there are Post, Reply',
    ),
    "a misspelt key": (lambda: ["data.colums=x"], r"did you mean `columns`\?"),
    "another format": (lambda: of_excel("data.columns=null", "data.format=sharegpt"), r"conversations"),
    "a file that is not there": (
        lambda: [*of_excel(), "data.train='./von Exel.csv'"],
        r"there is no './von Exel\.csv'",
    ),
    "a folder without data": (lambda: [f"data.train=./{folder('empty')}"], r"a folder without a data file"),
    "another delimiter": (lambda: of_excel("data.delimiter=;"), r"set data\.delimiter: ','"),
    "another encoding": (lambda: of_excel("data.encoding=ascii"), r"not ascii .*data\.encoding is another"),
    "more held out than there are": (
        lambda: of_excel("data.held_out_prompts=20"),
        r"more than half of the 24 prompts .* set data\.held_out_prompts: 6",
    ),
    "a form that no template writes": (lambda: [FORM], r"missing_trace"),
    "a reward that is not there": (
        lambda: wrong_reward("{kind: function, function: my_rewards.brevety}"),
        r"my_rewards has no 'brevety'; did you mean my_rewards\.brevity\?",
    ),
    "an argument that a reward does not take": (
        lambda: wrong_reward("{kind: function, function: my_rewards.brevity, arguments: {limt: 5}}"),
        r"limt|limit",
    ),
    "stages in the wrong order": (
        lambda: ["run.stages=[grpo,reward_modeling]"],
        r"grpo .*reward_modeling|reward_modeling.*before",
    ),
    "an adapter as the model": (
        lambda: [f"model={{from_scratch: null, path: ./{folder('lora', adapter_config=ADAPTER)}}}"],
        r"is an adapter of some/base, no model; merge it first",
    ),
    "an empty folder as the model": (
        lambda: [f"model={{from_scratch: null, path: ./{folder('nothing')}}}"],
        r"is no model folder: there is no config\.json; it is empty",
    ),
    "half a GPU for each of two ranks": (
        lambda: ["cluster.stage_worker={ranks: 2, num_gpus: 0.5}"],
        r"cluster\.stage_worker\.num_gpus \(0\.5\) with 2 ranks: NCCL wants a GPU a rank",
    ),
    "more ranks than completions": (
        lambda: ["cluster.policy_trainer.ranks=512"],
        r"cluster\.policy_trainer\.ranks",
    ),
    "prompts that are all too long": (
        lambda: tiny_model("data.max_prompt_tokens=2"),
        r"every prompt is longer than data\.max_prompt_tokens \(2\): the shortest has \d+ tokens",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_refused_with_the_way_out(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, told = WRONG[name]
    assert check(*make()) == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert re.search(told, printed), printed
    assert "Traceback" not in printed

"""A run file that extends another: what it does not say is as there, and every value knows where it comes from."""

from pathlib import Path

import pytest

from rl_empathy.config.loading import annotated_run_file, dump_run_file, load_run_file, read_run_file
from rl_empathy.errors import ConfigError

BASE = """model: {from_scratch: {}}
run: {name: the_base, seed: 7}
grpo:
  num_steps: 40
  sampling: {temperature: 0.6}
rewards:
  terms: [{kind: format}]
"""


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipes").mkdir()
    Path("base.yaml").write_text(BASE)


def write(text: str, path: str = "recipes/own.yaml") -> str:
    Path(path).write_text(text)
    return path


def test_what_a_file_does_not_say_is_as_in_the_one_that_it_extends() -> None:
    run_file = load_run_file(write("extends: ../base.yaml\ngrpo:\n  num_steps: 60\nsft:\n"))
    assert (run_file.grpo.num_steps, run_file.grpo.sampling.temperature) == (60, 0.6)
    assert [term.kind for term in run_file.rewards.terms] == ["format"]
    assert run_file.run.seed == 7
    assert run_file.run.name == "own", "two run files never share a run directory unless both say so"
    assert run_file.run.import_from == ("recipes", "recipes/..")


def test_an_override_comes_after_both_and_null_takes_back_what_the_base_says() -> None:
    path = write("extends: ../base.yaml\nmodel: {from_scratch: null, path: someone/model}\n")
    run_file = load_run_file(path, ["grpo.num_steps=3"], check_paths=False)
    assert (run_file.grpo.num_steps, run_file.model.path, run_file.model.from_scratch) == (
        3,
        "someone/model",
        None,
    )


def test_a_fault_is_told_with_the_file_and_line_that_has_it() -> None:
    write(BASE.replace("num_steps: 40", "num_stpes: 40"), "base.yaml")
    with pytest.raises(ConfigError) as refused:
        load_run_file(write("extends: ../base.yaml\nsft:\n  batch_tokens: -1\n"))
    first, second = str(refused.value).splitlines()[1:]
    assert first.startswith(
        "  recipes/../base.yaml:4  grpo.num_stpes: unknown key; did you mean `num_steps`?"
    )
    assert second.startswith("  recipes/own.yaml:3  sft.batch_tokens: ")


@pytest.mark.parametrize(
    ("base", "told"),
    [
        ("missing.yaml", "extends missing.yaml: there is no recipes/missing.yaml"),
        ("[../base.yaml]", "extends names one run file, got ['../base.yaml']"),
        ("own.yaml", "extends own.yaml, which in turn extends this file"),
        ("circle.yaml", "recipes/circle.yaml:1  extends own.yaml, which in turn extends this file"),
        ("chain_1.yaml", "5 files extend one another already"),
    ],
)
def test_what_cannot_be_extended_is_refused(base: str, told: str) -> None:
    write("extends: own.yaml\n", "recipes/circle.yaml")
    for number in range(1, 6):
        write(f"extends: chain_{number + 1}.yaml\n", f"recipes/chain_{number}.yaml")
    write("extends: ../base.yaml\n", "recipes/chain_6.yaml")
    with pytest.raises(ConfigError) as refused:
        load_run_file(write(f"extends: {base}\n"))
    assert told in str(refused.value)


def test_the_check_shows_where_each_value_comes_from() -> None:
    path = write('extends: ../base.yaml\ndata:\n  system_prompt: "a\\nlong ' + "text " * 40 + '"\n')
    run_file, source = read_run_file(path, ["grpo.group_size=4"])
    text = annotated_run_file(run_file, source)
    Path("resolved.yaml").write_text(text)
    assert load_run_file("resolved.yaml") == run_file
    lines = dict(line.strip().rpartition("  # ")[::2] for line in text.splitlines() if "  # " in line)
    assert lines["num_steps: 40"] == "recipes/../base.yaml:4"
    assert lines["temperature: 0.6"] == "recipes/../base.yaml:5"
    assert lines["- kind: format"] == "recipes/../base.yaml:7"
    assert lines["group_size: 4"] == "override 'grpo.group_size=4'"
    assert not [line for line in text.splitlines() if "max_staleness" in line and "#" in line], "a default"
    assert "#" not in dump_run_file(run_file)

"""What a run says and refuses before it looks for a cluster."""

import json
from pathlib import Path

import pytest

from rl_empathy.config.loading import load_run_file
from rl_empathy.config.run_file import RunFile
from rl_empathy.errors import DataError, ResourceError
from rl_empathy.orchestration import run as run_module


@pytest.fixture(autouse=True)
def _no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def join_cluster(*_: object) -> bool:
        raise ResourceError("there is no cluster")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_module, "join_cluster", join_cluster)


def run_file_of(*settings: str) -> RunFile:
    Path("trial.yaml").write_text("model: {from_scratch: {}}\n")
    return load_run_file("trial.yaml", settings)


def test_a_run_warns_of_what_works_against_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ResourceError, match="there is no cluster"):
        run_module.run(run_file_of("grpo.num_steps=3", "grpo.optimizer.warmup_steps=8"))
    assert "grpo: its 3 optimizer steps never leave the warm-up of 8" in capsys.readouterr().err


def test_a_reference_that_cannot_be_written_ends_a_run_before_anything_starts() -> None:
    rows = [
        {"id": f"row-{i}", "prompt": f"Post {i}", "references": [{"text": f"Reply {i} to it."}]}
        for i in range(4)
    ]
    rows[2]["references"] = [{"text": "Write it as <answer>so</answer> then."}]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ("data.train=rows.jsonl", "data.held_out_prompts=1", "data.min_answer_characters=1")
    with pytest.raises(DataError, match=r"row row-2: .*<answer>"):
        run_module.run(run_file_of(*settings))
    assert not Path("runs").exists()
    with pytest.raises(ResourceError, match="there is no cluster"):
        run_module.run(run_file_of(*settings, "data.on_bad_row=skip"))

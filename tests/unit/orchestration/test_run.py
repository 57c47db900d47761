"""What a run says and refuses before it looks for a cluster, and what it puts down of a stage."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rl_empathy.config.loading import load_run_file
from rl_empathy.config.run_file import RunFile
from rl_empathy.errors import DataError, ResourceError
from rl_empathy.observability.run_directory import RunDirectory
from rl_empathy.orchestration import run as run_module
from rl_empathy.orchestration.stages import Made


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


def ignore(*_: object, **__: object) -> None:
    pass


def test_a_stage_puts_down_its_run_file_its_result_and_what_its_roles_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = {"rollout worker": {"planned_gib": 3.0, "held_gib": 2.0}}
    (tmp_path / "model").mkdir()

    async def base_model(_: object) -> Path:
        return tmp_path / "model"

    async def run_stage(*_: object) -> Made:
        return Made(facts={"evaluation": "evaluation/held_out.json"})

    async def stage_ended(*_: object) -> dict[str, dict[str, float]]:
        return held

    monkeypatch.setattr(run_module, "base_model", base_model)
    monkeypatch.setattr(run_module, "runner_of", lambda name: run_stage)
    run_file = run_file_of("run.stages=[evaluate]")
    directory = RunDirectory.open(run_file, fresh=False, allow_config_change=False)
    context: Any = SimpleNamespace(
        run_file=run_file,
        directory=directory,
        stop=SimpleNamespace(is_set=False),
        plan=None,
        memory=SimpleNamespace(stage_ended=stage_ended),
        progress=SimpleNamespace(message=ignore),
        use_tokenizer_of=ignore,
    )
    asyncio.run(run_module._stages(context))
    assert directory.stage_result("evaluate") == {
        "evaluation": "evaluation/held_out.json",
        "memory": held,
    }
    trained_with = directory.path / "evaluation" / "trained_with.yaml"
    assert load_run_file(trained_with, check_paths=False) == run_file
    directory.close()

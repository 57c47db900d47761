"""Stage sft before its training starts: what only the data tells."""

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rl_empathy.observability.progress import Progress
from rl_empathy.orchestration.stages import Artifacts, Made, sft
from rl_empathy.types import Reference
from tests.unit.orchestration.test_context import make_context, make_row


def test_fine_tuning_by_epochs_warns_of_a_warm_up_that_its_steps_never_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sft, "fit", lambda *_: (tmp_path / "model").mkdir())
    rows = tuple(
        replace(make_row(str(i), f"I am lost {i}."), references=(Reference(text="I hear you."),))
        for i in range(3)
    )
    with Progress() as progress:
        context: Any = make_context(progress)
        settings = context.run_file.sft.model_copy(update={"validity_prompts": 0})
        context.run_file = context.run_file.model_copy(update={"sft": settings})
        context.directory = SimpleNamespace(path=tmp_path, stage=lambda name: tmp_path)
        context.data = SimpleNamespace(train=rows, held_out=())
        context.log = SimpleNamespace(cut_back=lambda *_: None)
        made = asyncio.run(sft.run(context, Artifacts(policies={"base": tmp_path})))
        assert made == Made(model=tmp_path / "model")
    told = capsys.readouterr().err
    assert "steps train 3 of 3 rows" in told
    assert "optimizer steps never leave the warm-up of 8" in told

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import wandb

from rl_empathy.actors.tracker import Mode, Tracker

CONFIG = {"run": {"name": "trial"}, "data": {"system_prompt": "You are Zoe, a listener.", "language": "en"}}


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    wandb.teardown()  # it reads the environment once


def make_tracker(folder: Path, mode: Mode = "offline", **arguments: Any) -> Tracker:
    return Tracker(str(folder), "trial", "rl-empathy", mode, CONFIG, **arguments)


def record(folder: Path) -> bytes:
    """Everything that `wandb sync` would send."""
    return b"".join(path.read_bytes() for path in sorted(folder.glob("wandb/*run-*/*.wandb")))


def test_numbers_are_recorded_and_text_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "my run"
    folder.mkdir()
    tracker = make_tracker(folder)
    tracker.log(
        {"stage": "grpo", "step": 1, "reward/mean": 0.5, "text/post": "I feel so alone", "flag": True}
    )
    tracker.log({"stage": "grpo", "step": 2, "reward/mean": None, "policy/loss": float("nan")})
    assert tracker.finish() == str(folder / "wandb")
    sent = record(folder)
    assert b"reward/mean" in sent
    for private in (b"alone", b"text/post", b"policy/loss", b"Zoe", b"system_prompt"):
        assert private not in sent
    assert b"language" in sent
    assert tracker.failures == 0
    assert tracker.problem() == ""


def test_a_resume_goes_on_under_the_same_id(tmp_path: Path) -> None:
    ids = []
    for _ in range(2):
        tracker = make_tracker(tmp_path)
        tracker.log({"step": 1, "reward/mean": 0.5})
        tracker.finish()
        ids.append((tmp_path / "wandb/run_id.txt").read_text().strip())
    assert ids[0] == ids[1]
    files = [path.name for path in tmp_path.glob("wandb/offline-run-*/*.wandb")]
    assert files == [f"run-{ids[0]}.wandb"] * 2


def test_a_given_id_is_used(tmp_path: Path) -> None:
    make_tracker(tmp_path, run_id="abc123").finish()
    assert [path.name for path in tmp_path.glob("wandb/offline-run-*/*.wandb")] == ["run-abc123.wandb"]


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tracker = make_tracker(tmp_path)
    tracker.log({"step": 1, "reward/mean": 0.5})
    tracker.finish()
    assert capfd.readouterr() == ("", "")


def test_disabled_writes_nothing(tmp_path: Path) -> None:
    tracker = make_tracker(tmp_path, "disabled")
    tracker.log({"step": 1})
    assert tracker.finish() == ""
    assert list(tmp_path.iterdir()) == []


def test_online_without_a_key_writes_files_and_says_so(tmp_path: Path) -> None:
    tracker = make_tracker(tmp_path, "online")
    tracker.log({"step": 1, "reward/mean": 0.5})
    tracker.finish()
    assert "WANDB_API_KEY is not set" in tracker.problem()
    assert b"reward/mean" in record(tmp_path)


def test_an_unreachable_server_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    caplog.set_level(logging.WARNING)
    tracker = make_tracker(tmp_path, "online", start_s=1)
    tracker.log({"step": 1, "reward/mean": 0.5})
    assert tracker.finish() == str(tmp_path / "wandb")
    assert b"reward/mean" in record(tmp_path)
    assert tracker.failures == 1
    assert "W&B did not start" in tracker.problem()
    assert "0123456789" not in caplog.text + tracker.problem()


def test_failures_are_counted_and_the_first_is_told(tmp_path: Path) -> None:
    (tmp_path / "wandb").touch()  # in the way of the folder
    tracker = make_tracker(tmp_path)
    tracker.log({"step": 1})
    assert tracker.finish() == ""
    assert tracker.failures == 1
    assert "W&B did not start" in tracker.problem()


def test_the_configuration_that_was_given_is_left_as_it_was(tmp_path: Path) -> None:
    before = json.dumps(CONFIG)
    make_tracker(tmp_path).finish()
    assert json.dumps(CONFIG) == before

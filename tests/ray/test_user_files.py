"""What users bring, from its file to a model that was trained on it."""

from pathlib import Path

import pytest

from tests.ray.test_runs import metrics, run
from tests.user_files import NUM_ROWS, USER_FILES, settings_of


@pytest.mark.long
@pytest.mark.parametrize("name", USER_FILES)
def test_a_model_is_fine_tuned_on_a_users_file(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    settings = [*settings_of(name, tmp_path), "data.missing_trace=none", "schema=think_answer"]
    done = run(folder, "run.stages=[sft]", "sft.num_steps=2", "sft.validity_prompts=0", *settings)
    assert f"{NUM_ROWS - 4} prompts to train on, 4 held out" in done.stderr + done.stdout
    assert [line["step"] for line in metrics(folder, "sft")] == [0, 1, 2]
    assert (folder / "tiny/model/model.safetensors").exists()

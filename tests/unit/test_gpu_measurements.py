"""The measurements for a GPU: their arithmetic, and that they run, on a CPU."""

import subprocess
import sys
from pathlib import Path

import pytest

from rl_empathy.engines.shared_prompt import Sample, pack
from tests.gpu.measurements import LAYOUTS, SMALL, agreement, matrix_rate, operations, speeds


def test_operations_are_those_of_weights_tokens_and_pairs():
    row = pack([Sample([1] * 10, [[1] * 5, [1] * 5])], layout="shared_prompt")
    layer = 6 * 32 * 64 + 3 * 64 * 96  # query, key, value and output of 2 + 1 + 1 + 2 heads; three matrices
    pairs = 10 * 10 / 2 + 2 * (4 * 10 + 4 * 4 / 2)
    by_hand = 6 * layer * 2 * 18 + 6 * 512 * 64 * 10 + 12 * pairs * 2 * 32 * 2
    assert operations(row, SMALL) == by_hand


@pytest.mark.slow
def test_the_measurements_run_on_a_cpu(tmp_path):
    found = agreement(tmp_path, device="cpu", families=("Llama",))
    assert [found["Llama"][layout].layout for layout in LAYOUTS] == list(LAYOUTS)
    measured = speeds(tmp_path / "speed", device="cpu", shape=SMALL, prompts=(40,))
    assert [speed.layout for speed in measured] == list(LAYOUTS)
    assert all(speed.seconds > 0 and speed.share_of_peak > 0 for speed in measured)
    assert matrix_rate("cpu", 64) > 0


@pytest.mark.slow
def test_the_measurements_need_torch_and_transformers_alone():
    absent = ("ray", "vllm", "deepspeed", "pydantic", "datasets", "peft", "pytest")
    program = f"import sys; sys.modules.update(dict.fromkeys({absent}, None)); import tests.gpu.measurements"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]

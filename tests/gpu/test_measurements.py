"""The measurements as tests, for a machine with a GPU and pytest; never run on one."""

import pytest
import torch

from tests.architectures import is_wrong
from tests.gpu.measurements import FAMILIES, LAYOUTS, agreement, speeds


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_computed_on_a_gpu_as_transformers_does_there(name, tmp_path):
    found = agreement(tmp_path, device="cuda", families=(name,))[name]
    assert not [layout for layout in LAYOUTS if is_wrong(found[layout])], found


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_long_prompt_costs_less_time_and_memory_in_the_shared_layout(tmp_path):
    by_layout = {speed.layout: speed for speed in speeds(tmp_path, device="cuda", prompts=(2000,))}
    assert by_layout["shared_prompt"].seconds < by_layout["packed"].seconds
    assert by_layout["shared_prompt"].peak_gib < by_layout["packed"].peak_gib

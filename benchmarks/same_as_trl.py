"""Does the policy learn what it learns under TRL's GRPOTrainer?

    python benchmarks/same_as_trl.py [--path default] [--seeds 0 1 2] [--steps 160]

The tiny fine-tuned model of the quickstart goes on on both sides, with its posts. Both draw 8 prompts × 8 completions a
step at temperature 1, with a loss over all tokens of the step (TRL's `dapo`), every group trained, truncated
completions too, AdamW with the same bounds and a rate that falls to a tenth over the run (at the peak the policy stays
some hundredths below the optimum). Ours is synchronous here (staleness 0): what staleness does to learning is another
question. Seeds agree in number only: order and sampling differ. There are two paths:

    plain      One reward with a known optimum: 1 for a completion that is exactly what the output schema renders, else
               0 (the term `format`). Advantages without the division by the spread (`group_mean`;
               TRL's `scale_rewards="none"`), correction `clip`, no KL term.
    default    What our defaults compute: two terms (`format`, and the share of different words), advantages
               divided by the spread (`group_std`; TRL's "group"), correction `tis`, and the KL term `k3_ratio` to the
               reference (TRL's `beta` with `use_bias_correction_kl`). Its optimum is not known; the curves are
               compared. On policy `tis` weighs every token by the trainer's probability over vLLM's: by one, but for
               rounding.

Samples fall into buckets in the order of training; a band is their mean over the seeds ± 2 standard errors. Welch's
t-test compares whole curves: its interval allows for few seeds, which the bands do not. A curve that is finished, with
the same settings, is read, not run again (benchmarks/out/same_as_trl_<path>.json).
"""

import argparse
import asyncio
import hashlib
import itertools
import json
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from real_roles import finished_quickstart, roles
from rich.console import Console
from rich.table import Table
from trl_environment import trl_trainer

from rl_empathy.algorithms.schedules import COSINE_FLOOR
from rl_empathy.config.loading import load_run_file
from rl_empathy.data.conversations import prompt_messages
from rl_empathy.data.loading import load_data
from rl_empathy.observability.ledger import Ledger
from rl_empathy.observability.metrics import MetricsLog
from rl_empathy.orchestration.grpo import run_grpo
from rl_empathy.orchestration.stop import StopSignal

OUT = Path(__file__).parent / "out"
GROUPS, GROUP_SIZE = 8, 8
SAMPLES = GROUPS * GROUP_SIZE
COMPLETION, TEMPERATURE, LEARNING_RATE = 240, 1.0, 1.5e-3
CLIP_LOW, CLIP_HIGH, KL_COEF = 0.2, 0.28, 0.005
BUCKETS = 8
OURS = (
    "cluster.rollout_workers={min: 1, max_running_sequences: 256}",
    f"grpo.groups_per_step={GROUPS}",
    f"grpo.group_size={GROUP_SIZE}",
    "grpo.max_staleness=0",
    f"grpo.sampling={{max_completion_tokens: {COMPLETION}, temperature: {TEMPERATURE}}}",
    f"grpo.clip_low={CLIP_LOW}",
    f"grpo.clip_high={CLIP_HIGH}",
    "grpo.keep_groups=all",
    f"grpo.optimizer={{learning_rate: {LEARNING_RATE}, warmup_steps: 1, schedule: cosine}}",
    "grpo.checkpoint_every=100000",
)
TRLS: dict[str, Any] = {
    "per_device_train_batch_size": SAMPLES,
    "num_generations": GROUP_SIZE,
    "max_completion_length": COMPLETION,
    "temperature": TEMPERATURE,
    "loss_type": "dapo",
    "epsilon": CLIP_LOW,
    "epsilon_high": CLIP_HIGH,
    "learning_rate": LEARNING_RATE,
    "lr_scheduler_type": "cosine_with_min_lr",
    "lr_scheduler_kwargs": {"min_lr_rate": COSINE_FLOOR},
}
FORMAT = "trl_grpo.keeps_form"
WORDS = "trl_grpo.distinct_words"


@dataclass(frozen=True, kw_only=True)
class ComputedAs:
    """One way of computing an update, as either side is told of it."""

    ours: tuple[str, ...]
    trls: Mapping[str, Any]
    rewards: tuple[str, ...]


PATHS = {
    "plain": ComputedAs(
        ours=(
            "rewards.terms=[{kind: format}]",
            "grpo.advantage=group_mean",
            "grpo.loss=clip",
            "grpo.kl_coef=0",
        ),
        trls={"scale_rewards": "none", "beta": 0.0},
        rewards=(FORMAT,),
    ),
    "default": ComputedAs(
        ours=(
            f"rewards.terms=[{{kind: format}}, {{kind: function, function: {WORDS}, sees: all}}]",
            "grpo.loss=tis",
        ),
        trls={"scale_rewards": "group", "beta": KL_COEF, "use_bias_correction_kl": True},
        rewards=(FORMAT, WORDS),
    ),
}


def our_rewards(record: Path, path: str, seed: int, steps: int) -> list[float]:
    """Mean reward of each step."""
    rewards: list[float] = []
    settings = (*OURS, *PATHS[path].ours, f"run.seed={seed}", f"grpo.num_steps={steps}")

    async def run() -> None:
        async with roles(record / "config.yaml", *settings, policy=record / "sft" / "model") as real:
            log = MetricsLog(real.folder / "metrics.jsonl")
            log.add_sink(lambda line: add(rewards, line["reward/mean"], f"ours {seed}"))
            ledger = Ledger(real.folder / "ledger.jsonl")
            await run_grpo(real.run_file.grpo, real.fleet, real.prompts, ledger, log, stop=StopSignal())

    asyncio.run(run())
    return rewards


def trl_rewards(record: Path, path: str, seed: int, steps: int) -> list[float]:
    """Mean reward of each step."""
    run_file = load_run_file(record / "config.yaml", [f"run.seed={seed}"])
    posts = [
        [
            {"role": m.role, "content": m.content}
            for m in prompt_messages(row, run_file.data.system_prompt or "")
        ]
        for row in load_data(run_file.data, seed=seed).train
    ]
    computed = PATHS[path]
    arguments = TRLS | dict(computed.trls)
    with trl_trainer(
        record / "sft" / "model", posts, rewards=computed.rewards, seed=seed, max_steps=steps, **arguments
    ) as trl:
        rewards: list[float] = []
        for _ in range(steps):
            add(rewards, statistics.mean(trl.step()["rewards"]), f"trl {seed}")
        return rewards


def add(rewards: list[float], reward: float, curve: str) -> None:
    """And say how far the curve is, now and then."""
    rewards.append(reward)
    if len(rewards) % 20 == 0:
        sys.stderr.write(f"{curve}: step {len(rewards)}, reward {reward:.2f}\n")


class Band(NamedTuple):
    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Band":
        """Mean ± 2 standard errors; of one value, that value."""
        mean = statistics.mean(values)
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
        return cls(mean, mean - 2 * error, mean + 2 * error)

    def meets(self, other: "Band") -> bool:
        return self.low <= other.high and other.low <= self.high

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bands(curves: Sequence[Sequence[float]]) -> list[Band]:
    """One a bucket of steps, over the curves of the seeds."""
    edges = [round(i * len(curves[0]) / BUCKETS) for i in range(BUCKETS + 1)]
    return [
        Band.of([statistics.mean(curve[start:end]) for curve in curves])
        for start, end in itertools.pairwise(edges)
    ]


class Curves:
    """The rewards of each side and seed, step by step; what is there already is not run again."""

    def __init__(self, file: Path, settings: dict[str, Any]) -> None:
        """Read what an earlier start with the same settings has left."""
        self._file = file
        self._content: dict[str, Any] = {"settings": settings, "curves": {}}
        if file.exists() and (old := json.loads(file.read_text())).get("settings") == settings:
            self._content = old
            sys.stderr.write(f"read from {file}: {', '.join(old['curves'])}\n")

    def get(self, side: str, seed: int, run: Callable[[], list[float]]) -> list[float]:
        curves, key = self._content["curves"], f"{side} {seed}"
        if key not in curves:
            curves[key] = run()
            self._file.parent.mkdir(exist_ok=True)
            new = self._file.with_suffix(".new")
            new.write_text(json.dumps(self._content, indent=1))
            new.replace(self._file)
        return list(curves[key])


def last_quarter(curves: Sequence[Sequence[float]]) -> float:
    return statistics.mean(statistics.mean(curve[-len(curve) // 4 :]) for curve in curves)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--path", choices=list(PATHS), default="default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=160)
    arguments = parser.parse_args()
    record = finished_quickstart()
    steps = arguments.steps
    model = hashlib.sha256((record / "sft" / "model" / "model.safetensors").read_bytes()).hexdigest()
    path = PATHS[arguments.path]
    settings = {"model": model, "steps": steps, "ours": [*OURS, *path.ours], "trl": TRLS | dict(path.trls)}
    curves = Curves(OUT / f"same_as_trl_{arguments.path}.json", settings)
    ours, theirs = [], []
    for seed in arguments.seeds:
        ours.append(curves.get("ours", seed, partial(our_rewards, record, arguments.path, seed, steps)))
        theirs.append(curves.get("trl", seed, partial(trl_rewards, record, arguments.path, seed, steps)))
    pairs = list(zip(bands(ours), bands(theirs), strict=True))
    table = Table("samples", "ours", "TRL", "bands meet")
    for number, (our, their) in enumerate(pairs, start=1):
        samples = round(number * steps / BUCKETS) * SAMPLES
        table.add_row(f"to {samples:,}", str(our), str(their), "yes" if our.meets(their) else "no")
    our, their = (Band.of([statistics.mean(curve) for curve in curves]) for curves in (ours, theirs))
    table.add_section()
    table.add_row("all", str(our), str(their), "yes" if our.meets(their) else "no")
    Console().print(table)
    print(
        f"RESULT path={arguments.path} overlap={statistics.mean(our.meets(their) for our, their in pairs):.2f} "
        f"ours_last={last_quarter(ours):.3f} trl_last={last_quarter(theirs):.3f}{difference(ours, theirs)}"
    )


def difference(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> str:
    """Ours minus TRL's, over whole curves, with the 95 % interval of Welch's t-test over seeds; "" of one seed."""
    if len(ours) < 2:
        return ""
    from scipy.stats import ttest_ind  # type: ignore[import-untyped]

    means = [[statistics.mean(curve) for curve in side] for side in (ours, theirs)]
    low, high = ttest_ind(*means, equal_var=False).confidence_interval()
    return f" difference={statistics.mean(means[0]) - statistics.mean(means[1]):.3f} low={low:.3f} high={high:.3f}"


if __name__ == "__main__":
    main()

"""What does orchestration cost: a synchronous step against the sum of its pure parts?

    python benchmarks/overhead.py [--steps 1] [--rounds 10]

The quickstart's roles (real vLLM, reward model, reference model, DeepSpeed), one rollout worker, staleness 0. A round
has three turns of as many steps:

- loop: `run_grpo`.
- together: by hand, every group scored as soon as it is written, beside those that are still written, as the loop does;
  then update; then publish. `overhead_fraction` is the loop's time over the sum of these three, less 1.
- apart: by hand, every part with all other roles idle. The loop overlaps scoring with writing, so it may be faster than
  this sum (`apart_fraction`), and what it costs would hide behind that.

Measured is what the driver adds: slots, buffer, ledger, metrics, publisher. What a call costs (Ray, the object store)
is not, since the parts are made by the same calls. The policy hardly moves, no group is dropped, and every turn begins
with the same prompts, so that all write about the same tokens (of a completion, in the table). A turn's first step does
not count, since the turn before may reach into it. Many short rounds, since the speed of a machine drifts.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from real_roles import RealRoles, quickstart_roles
from rich.console import Console
from rich.table import Table
from same_as_trl import Band

from rl_empathy.config.sections import GRPOConfig
from rl_empathy.data.prompts import START
from rl_empathy.observability.ledger import Ledger
from rl_empathy.observability.metrics import MetricsLog
from rl_empathy.orchestration.fleet import GroupHandle
from rl_empathy.orchestration.grpo import run_grpo
from rl_empathy.orchestration.stop import StopSignal
from rl_empathy.orchestration.weight_sync import Publisher
from rl_empathy.types import Prompt

SETTINGS = (
    "cluster.rollout_workers={min: 1, max_running_sequences: 256}",
    "grpo.max_staleness=0",
    "grpo.num_steps=1000",
    "grpo.checkpoint_every=100000",
    "grpo.keep_groups=all",
    "grpo.optimizer.learning_rate=1.0e-12",
)
LENGTH = "rollout/completion_length_tokens"
PARTS = ("generate and score", "generate", "score", "reference", "update", "publish")


async def loop_steps(real: RealRoles, config: GRPOConfig, steps: int) -> list[dict[str, Any]]:
    """The metrics of each step of the loop but the first."""
    real.prompts.go_to(START, [])
    lines: list[dict[str, Any]] = []
    log = MetricsLog(real.folder / "metrics.jsonl")
    log.add_sink(lambda line: lines.append(dict(line)))
    last = real.fleet.trainer.version.number + steps + 1
    config = config.model_copy(update={"num_steps": last})
    ledger = Ledger(real.folder / "ledger.jsonl")
    await run_grpo(config, real.fleet, real.prompts, ledger, log, stop=StopSignal())
    return lines[1:]


async def steps_by_hand(
    real: RealRoles, config: GRPOConfig, steps: int, *, together: bool
) -> list[dict[str, float]]:
    """Seconds of each part of each step but the first."""
    real.prompts.go_to(START, [])
    return [await step_by_hand(real, config, together=together) for _ in range(steps + 1)][1:]


async def step_by_hand(real: RealRoles, config: GRPOConfig, *, together: bool) -> dict[str, float]:
    fleet, seconds = real.fleet, {}
    prompts = real.prompts.take(config.groups_per_step)
    now = time.monotonic()

    def took(part: str) -> None:
        nonlocal now
        seconds[part], now = time.monotonic() - now, time.monotonic()

    async def generate(prompt: Prompt) -> GroupHandle:
        return await fleet.rollout_workers.sample(
            prompt, sampling=config.sampling, group_size=config.group_size
        )

    async def generate_and_score(prompt: Prompt) -> GroupHandle:
        group = await generate(prompt)
        return group.scored(
            *await asyncio.gather(fleet.reward_model.score(group), fleet.reference_model.logprobs(group))
        )

    if together:
        groups = await asyncio.gather(*map(generate_and_score, prompts))
        took("generate and score")
    else:
        written = await asyncio.gather(*map(generate, prompts))
        took("generate")
        rewards = await asyncio.gather(*map(fleet.reward_model.score, written))
        took("score")
        logprobs = await asyncio.gather(*map(fleet.reference_model.logprobs, written))
        took("reference")
        groups = [g.scored(r, p) for g, r, p in zip(written, rewards, logprobs, strict=True)]
    await fleet.trainer.update(groups)
    took("update")
    async with asyncio.TaskGroup() as tasks:
        await Publisher(fleet.trainer, fleet.rollout_workers, tasks, StopSignal()).publish()
    took("publish")
    lengths = [length for group in groups for length in group.header.completion_tokens]
    return seconds | {LENGTH: statistics.mean(lengths)}


async def measure(steps: int, rounds: int) -> list[dict[str, Any]]:
    found = []
    async with quickstart_roles(*SETTINGS) as real:
        config = real.run_file.grpo
        for number in range(1, rounds + 1):
            found.append(
                {
                    "loop": await loop_steps(real, config, steps),
                    "together": await steps_by_hand(real, config, steps, together=True),
                    "apart": await steps_by_hand(real, config, steps, together=False),
                }
            )
            sys.stderr.write(f"round {number} of {rounds}: done\n")
    return found


def mean(steps: list[dict[str, Any]], name: str) -> float:
    return statistics.mean(step[name] for step in steps)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    found = asyncio.run(measure(arguments.steps, arguments.rounds))
    table = Table("round", "turn", "tokens", *(f"{part} s" for part in PARTS), "whole s", "loop over it")
    fractions: dict[str, list[float]] = {"together": [], "apart": []}
    for number, turns in enumerate(found, start=1):
        loop = mean(turns["loop"], "time/step_s")
        empty = ("",) * len(PARTS)
        table.add_row(str(number), "loop", f"{mean(turns['loop'], LENGTH):.1f}", *empty, f"{loop:.2f}")
        for turn, of_rounds in fractions.items():
            steps = turns[turn]
            parts = {part: mean(steps, part) for part in PARTS if part in steps[0]}
            whole = sum(parts.values())
            of_rounds.append(loop / whole - 1)
            table.add_row(
                "", turn, f"{mean(steps, LENGTH):.1f}",
                *(f"{parts[part]:.3f}" if part in parts else "" for part in PARTS),
                f"{whole:.2f}", f"{of_rounds[-1]:+.3f}",
            )  # fmt: skip
    Console(width=140).print(table)
    out = Path(__file__).parent / "out" / "overhead.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(found, indent=1))
    for turn, of_rounds in fractions.items():
        print(f"{turn}: mean of the rounds ± 2 standard errors {Band.of(of_rounds)}")
    print(
        f"RESULT overhead_fraction={statistics.median(fractions['together']):.3f} "
        f"apart_fraction={statistics.median(fractions['apart']):.3f}"
    )


if __name__ == "__main__":
    main()

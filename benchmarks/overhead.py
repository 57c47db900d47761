"""What does orchestration cost: a synchronous step against the sum of its pure parts?

    python benchmarks/overhead.py [--steps 6] [--rounds 3]

The quickstart's roles (real vLLM, reward model, reference model, DeepSpeed), one rollout worker, staleness 0. A round
runs the loop for some steps, then makes as many steps by hand, one part at a time with every other role idle:
generate all groups, score them, reference log-probs, update, publish. Rounds alternate, A B A B.
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

from rl_empathy.config.sections import GRPOConfig
from rl_empathy.observability.ledger import Ledger
from rl_empathy.observability.metrics import MetricsLog
from rl_empathy.orchestration.grpo import run_grpo
from rl_empathy.orchestration.stop import StopSignal
from rl_empathy.orchestration.weight_sync import Publisher

SETTINGS = (
    "cluster.rollout_workers={min: 1, max_running_sequences: 256}",
    "grpo.max_staleness=0",
    "grpo.checkpoint_every=100000",
)
PARTS = ("generate", "score", "reference", "update", "publish")


async def loop_steps(real: RealRoles, config: GRPOConfig, steps: int) -> list[float]:
    """Seconds of each step of the loop but the first, before which the roles were idle."""
    lines: list[dict[str, Any]] = []
    log = MetricsLog(real.folder / "metrics.jsonl")
    log.add_sink(lambda line: lines.append(dict(line)))
    last = real.fleet.trainer.version.number + steps + 1
    config = config.model_copy(update={"num_steps": last})
    ledger = Ledger(real.folder / "ledger.jsonl")
    await run_grpo(config, real.fleet, real.prompts, ledger, log, stop=StopSignal())
    return [line["time/step_s"] for line in lines[1:]]


async def pure_step(real: RealRoles, config: GRPOConfig) -> dict[str, float]:
    """Seconds of each part, with nothing else under way."""
    fleet, seconds = real.fleet, {}
    now = time.monotonic()

    def took(part: str) -> None:
        nonlocal now
        seconds[part], now = time.monotonic() - now, time.monotonic()

    groups = await generate(real, config)
    took("generate")
    rewards = await asyncio.gather(*(fleet.reward_model.score(group) for group in groups))
    took("score")
    logprobs = await asyncio.gather(*(fleet.reference_model.logprobs(group) for group in groups))
    took("reference")
    scored = [g.scored(r, p) for g, r, p in zip(groups, rewards, logprobs, strict=True)]
    await fleet.trainer.update(scored)
    took("update")
    async with asyncio.TaskGroup() as tasks:
        await Publisher(fleet.trainer, fleet.rollout_workers, tasks).publish()
    took("publish")
    return seconds


async def generate(real: RealRoles, config: GRPOConfig) -> list[Any]:
    prompts = real.prompts.take(config.groups_per_step)
    sampling = (
        real.fleet.rollout_workers.sample(p, sampling=config.sampling, group_size=config.group_size)
        for p in prompts
    )
    return await asyncio.gather(*sampling)


async def measure(steps: int, rounds: int) -> list[dict[str, Any]]:
    found = []
    async with quickstart_roles(*SETTINGS, "grpo.num_steps=1000") as real:
        config = real.run_file.grpo
        for _ in range(rounds):
            loop = await loop_steps(real, config, steps)
            await generate(real, config)  # until then the worker may still write what the loop has given up
            pure = [await pure_step(real, config) for _ in range(steps)]
            found.append({"loop_s": loop, "pure_s": pure})
            sys.stderr.write(f"loop {statistics.mean(loop):.2f} s, parts {sum_of(pure):.2f} s\n")
    return found


def sum_of(pure: list[dict[str, float]]) -> float:
    return statistics.mean(sum(parts.values()) for parts in pure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    found = asyncio.run(measure(arguments.steps, arguments.rounds))
    fractions = [statistics.mean(r["loop_s"]) / sum_of(r["pure_s"]) - 1 for r in found]
    table = Table("round", "loop s", "sum of parts s", *(f"{part} s" for part in PARTS), "overhead")
    for number, (each, fraction) in enumerate(zip(found, fractions, strict=True), start=1):
        parts = [statistics.mean(p[part] for p in each["pure_s"]) for part in PARTS]
        table.add_row(
            str(number), f"{statistics.mean(each['loop_s']):.2f}", f"{sum(parts):.2f}",
            *(f"{seconds:.3f}" for seconds in parts), f"{fraction:+.3f}",
        )  # fmt: skip
    Console(width=140).print(table)
    out = Path(__file__).parent / "out" / "overhead.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(found, indent=1))
    print(f"RESULT overhead_fraction={statistics.median(fractions):.3f}")


if __name__ == "__main__":
    main()

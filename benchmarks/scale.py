"""How many rollout workers can one driver keep busy, and what does a group cost it?

    python benchmarks/scale.py [--workers 2 32 64 128 256] [--steps 10]

The real driver, fleet, buffer and ledger on Ray actors that sleep: at most 32 processes, each of which hosts several
workers with a call path of their own. A group is written in 4 s (log-normal, sigma 0.5, at most 10 s) and an update
takes 4 s; the number of groups a step grows with the workers, so the supply suffices: four times what is trained could
be written. Beside the trainer's idle share stands that of a simulation in which nothing else takes time.

On one machine the trainer also waits for a core, whenever a publish wakes 32 processes at once. So the largest run is
made once more with the trainer's process first in line for the cores (which takes root), as if it had a node of its
own: the idle share that is left there is the driver's.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

from processes import peak_memory
from rich.console import Console
from rich.table import Table
from sleeping import SLEEPERS, Lengths, SleepingRun, SleepingTrainer, ideal_waits_s, local_ray, say

from rl_empathy.config.sections import GRPOConfig
from rl_empathy.orchestration.grpo import slots
from rl_empathy.types import Pulse

LENGTHS = Lengths(mean_s=4.0, sigma=0.5, longest_s=10.0)
UPDATE_S = 4.0
STALENESS = 3
PROCESSES = 32
WARM_UP_STEPS = 3


def settings(workers: int, steps: int) -> GRPOConfig:
    groups = max(1, workers // 2)
    return GRPOConfig(
        num_steps=steps,
        groups_per_step=groups,
        group_size=8,
        max_staleness=STALENESS,
        checkpoint_every=steps,
        kl_coef=0,
    )


class FirstTrainer(SleepingTrainer):
    """Gets a core before everything else on the machine."""

    def ready(self) -> Pulse:
        for thread in os.listdir("/proc/self/task"):
            os.setpriority(os.PRIO_PROCESS, int(thread), -15)
        return super().ready()


def measure(workers: int, steps: int, *, trainer: type = SleepingTrainer) -> dict[str, Any]:
    with local_ray(4) as folder:  # anew: so that nothing is left of the last one
        return measured(workers, steps, folder, trainer)


def measured(workers: int, steps: int, folder: Path, trainer: type) -> dict[str, Any]:
    config = settings(workers, steps)
    run = SleepingRun(
        config=config,
        workers=workers,
        processes=min(workers, PROCESSES),
        lengths=LENGTHS,
        update_s=UPDATE_S,
        classes={**SLEEPERS, "policy_trainer": trainer},
    )
    cpu_s: list[float] = []
    run.each_step = lambda: cpu_s.append(time.process_time())
    place = folder / str(workers)
    place.mkdir()
    with peak_memory(os.getpid()) as peak:
        run.run(place)
    counted = run.lines[WARM_UP_STEPS:]
    groups = config.groups_per_step * len(counted)
    ideal_waits = ideal_waits_s(config, LENGTHS, UPDATE_S)[WARM_UP_STEPS:]
    return {
        "workers": workers,
        "groups_per_step": config.groups_per_step,
        "slots": slots(config),
        "groups_per_s": groups / sum(line["time/step_s"] for line in counted),
        "trainer_idle_fraction": statistics.mean(line["idle/trainer_fraction"] for line in counted),
        "ideal_idle_fraction": statistics.mean(wait / (wait + UPDATE_S) for wait in ideal_waits),
        "driver_cpu_s_per_group": (cpu_s[-1] - cpu_s[WARM_UP_STEPS - 1]) / groups,
        "publish_s": statistics.median(line["time/publish_s"] for line in counted),
        "peak_gib": peak.gib,
        "lines": run.lines,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 32, 64, 128, 256])
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    results = []
    for workers in arguments.workers:
        results.append(measure(workers, arguments.steps))
        say(f"{workers} workers: {results[-1]['groups_per_s']:.2f} groups/s")
    table = Table(title="One driver, workers that sleep")
    columns = (
        "workers",
        "groups/s",
        "trainer idle",
        "ideal idle",
        "driver CPU ms a group",
        "publish ms",
        "peak GiB",
    )
    for column in columns:
        table.add_column(column, justify="right")
    for found in results:
        table.add_row(
            str(found["workers"]), f"{found['groups_per_s']:.2f}", f"{found['trainer_idle_fraction']:.3f}",
            f"{found['ideal_idle_fraction']:.3f}",
            f"{1e3 * found['driver_cpu_s_per_group']:.1f}", f"{1e3 * found['publish_s']:.0f}",
            f"{found['peak_gib']:.1f}",
        )  # fmt: skip
    Console(width=120).print(table)
    out = Path(__file__).parent / "out" / "scale.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(results, indent=1))
    if os.geteuid():
        say("not root: the run in which the trainer is first in line is left out")
    else:
        first = measure(arguments.workers[-1], arguments.steps, trainer=FirstTrainer)
        print(f"the largest again, the trainer first in line: idle {first['trainer_idle_fraction']:.3f}")
        out.write_text(json.dumps([*results, first], indent=1))
    largest = results[-1]
    print(
        f"RESULT trainer_idle_fraction={largest['trainer_idle_fraction']:.3f} "
        f"driver_cpu_s_per_group={largest['driver_cpu_s_per_group']:.4f} peak_gib={largest['peak_gib']:.1f}"
    )


if __name__ == "__main__":
    main()

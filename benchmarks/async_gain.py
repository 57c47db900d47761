"""How near does the asynchronous loop come to what its slots and lengths allow, and what does it gain?

    python benchmarks/async_gain.py [--steps 30] [--repetitions 3] [--staleness 1 2 4]

The real loop, buffer and fleet on Ray actors that sleep: log-normal times to write a group (sigma 1), an update as
long as the mean. The bound is a simulation without any overhead, with the same slots, window and times; beside it
stands the larger of the two kinds of work. Synchronous (staleness 0) and asynchronous runs alternate.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table
from sleeping import SleepingRun, duration_s, local_ray, say

from rl_empathy.config.sections import GRPOConfig
from rl_empathy.data.prompts import PromptStream
from rl_empathy.orchestration.grpo import slots
from rl_empathy.types import Message, Occurrence, Row

MEAN_S, SIGMA, UPDATE_S = 1.0, 1.0, 1.0
GROUPS = 8


def occurrences() -> Iterator[Occurrence]:
    row = Row(id="row", messages=(Message(role="user", content="post"),))
    stream = PromptStream([(row, [1])] * 4096, seed=0)
    while True:
        yield stream.take(1)[0].occurrence


def ideal_s(config: GRPOConfig) -> float:
    """Length of a run in which nothing but writing and updating takes time."""
    times = (duration_s(occurrence, MEAN_S, SIGMA) for occurrence in occurrences())
    pending: list[tuple[int, float]] = []  # number in the order of start, and when it is written
    now, number = 0.0, 0
    free = slots(config)
    for _ in range(config.num_steps):
        for _ in range(free):
            pending.append((number, now + next(times)))
            number += 1
        for _ in range(config.groups_per_step):
            window = [entry for entry in pending if entry[0] < pending[0][0] + config.look_ahead]
            now = max(now, min(done for _, done in window))
            pending.remove(next(entry for entry in window if entry[1] <= now))
        now += UPDATE_S
        free = config.groups_per_step
    return now


def work_s(config: GRPOConfig) -> float:
    """The larger of all updates, and all writing spread over the slots."""
    count = config.num_steps * config.groups_per_step
    times = [
        duration_s(occurrence, MEAN_S, SIGMA)
        for occurrence, _ in zip(occurrences(), range(count), strict=False)
    ]
    return max(config.num_steps * UPDATE_S, sum(times) / slots(config))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--staleness", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--workers", type=int, default=4)
    arguments = parser.parse_args()
    settings = [(0, 1)] + [(s, w) for s in arguments.staleness for w in (1, s * GROUPS // 2 + 1)]
    configs = {
        (staleness, window): GRPOConfig(
            num_steps=arguments.steps,
            groups_per_step=GROUPS,
            group_size=2,
            max_staleness=staleness,
            look_ahead=window,
            checkpoint_every=arguments.steps,
            kl_coef=0,
        )
        for staleness, window in settings
    }
    repetitions = []
    with local_ray(4) as folder:
        for repetition in range(arguments.repetitions):
            for key, config in configs.items():
                run = SleepingRun(
                    config=config,
                    workers=arguments.workers,
                    processes=arguments.workers,
                    mean_s=MEAN_S,
                    sigma=SIGMA,
                    update_s=UPDATE_S,
                )
                place = folder / f"{repetition}-{key[0]}-{key[1]}"
                place.mkdir()
                seconds = run.run(place)
                stale = max(line["staleness/max"] for line in run.lines)
                say(f"staleness {key[0]}, window {key[1]}: {seconds:.1f} s")
                repetitions.append(
                    {"staleness": key[0], "window": key[1], "seconds": seconds, "stalest": stale}
                )
    report(configs, repetitions)


def report(configs: dict[tuple[int, int], GRPOConfig], repetitions: list[dict[str, float]]) -> None:
    table = Table(title="Asynchronous against synchronous, on engines that sleep")
    for name in ("staleness", "window", "stalest seen", "seconds", "bound", "share of bound", "work", "gain"):
        table.add_column(name, justify="right")

    def seconds(key: tuple[int, int]) -> float:
        return statistics.median(r["seconds"] for r in repetitions if (r["staleness"], r["window"]) == key)

    rows = []
    for key, config in configs.items():
        bound = ideal_s(config)
        rows.append(
            {
                "staleness": key[0],
                "window": key[1],
                "seconds": seconds(key),
                "bound_s": bound,
                "bound_fraction": bound / seconds(key),
                "work_s": work_s(config),
                "gain": seconds((0, 1)) / seconds(key),
            }
        )
        stalest = max(r["stalest"] for r in repetitions if (r["staleness"], r["window"]) == key)
        row = rows[-1]
        table.add_row(
            str(key[0]), str(key[1]), f"{stalest:g}", f"{row['seconds']:.1f}", f"{bound:.1f}",
            f"{row['bound_fraction']:.3f}", f"{row['work_s']:.1f}", f"{row['gain']:.2f}",
        )  # fmt: skip
    Console(width=120).print(table)
    out = Path(__file__).parent / "out" / "async_gain.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"repetitions": repetitions, "rows": rows}, indent=1))
    worst = min(row["bound_fraction"] for row in rows if row["staleness"])
    best = max(row["gain"] for row in rows)
    print(f"RESULT bound_fraction={worst:.3f} gain={best:.3f}")


if __name__ == "__main__":
    main()

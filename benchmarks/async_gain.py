"""How near does the asynchronous loop come to what its slots and lengths allow, and what does it gain?

    python benchmarks/async_gain.py [--steps 30] [--repetitions 3] [--staleness 1 2 4]

The real loop, buffer and fleet on Ray actors that sleep: log-normal times to write a group (sigma 1), an update as
long as the mean. The bound is a simulation without any overhead, with the same slots, window and times; beside it
stands the larger of the two kinds of work. Synchronous (staleness 0) and asynchronous runs alternate. A second table
shows whether a look-ahead favours short groups: staleness by quartile of the time to write, and how long the groups of
the first five steps took against the rest and against all that were drawn.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from sleeping import Lengths, SleepingRun, ideal_waits_s, local_ray, prompt_stream, say

from rl_empathy.config.sections import GRPOConfig
from rl_empathy.orchestration.grpo import slots
from rl_empathy.types import Occurrence

LENGTHS = Lengths(mean_s=1.0, sigma=1.0)
UPDATE_S = 1.0
GROUPS = 8


def work_s(config: GRPOConfig) -> float:
    """The larger of all updates, and all writing spread over the slots."""
    count = config.num_steps * config.groups_per_step
    times = [LENGTHS.write_s(prompt.occurrence) for prompt in prompt_stream().take(count)]
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
                    lengths=LENGTHS,
                    update_s=UPDATE_S,
                )
                place = folder / f"{repetition}-{key[0]}-{key[1]}"
                place.mkdir()
                seconds = run.run(place)
                say(f"staleness {key[0]}, window {key[1]}: {seconds:.1f} s")
                repetitions.append(
                    {"staleness": key[0], "window": key[1], "seconds": seconds, "trained": trained(place)}
                )
    report(configs, repetitions)


def trained(folder: Path) -> list[dict[str, float]]:
    """Step, staleness and time to write of every group, in the order of training."""
    lines = map(json.loads, (folder / "trained.jsonl").read_text().strip("\n").split("\n"))
    return [
        {
            "step": line["step"],
            "lag": line["lag"],
            "write_s": LENGTHS.write_s(Occurrence(*line["occurrence"])),
        }
        for line in lines
    ]


def favour(groups: list[dict[str, float]]) -> dict[str, Any]:
    """Whether short groups are favoured: staleness by quartile of length, and lengths early and late."""
    ordered = sorted(groups, key=lambda group: group["write_s"])
    quarter = len(ordered) // 4
    quartiles = [ordered[i * quarter : (i + 1) * quarter] for i in range(4)]
    drawn = [LENGTHS.write_s(prompt.occurrence) for prompt in prompt_stream().take(len(groups))]
    return {
        "lag_by_quartile": [statistics.mean(group["lag"] for group in quartile) for quartile in quartiles],
        "first_five_s": statistics.mean(group["write_s"] for group in groups if group["step"] <= 5),
        "rest_s": statistics.mean(group["write_s"] for group in groups if group["step"] > 5),
        "drawn_s": statistics.mean(drawn),
    }


def summary(
    configs: dict[tuple[int, int], GRPOConfig], repetitions: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """One row a setting: its median time beside the bound, the gain, and whether short groups are favoured."""

    def seconds(key: tuple[int, int]) -> float:
        return statistics.median(found["seconds"] for found in of_setting(repetitions, key))

    rows = []
    for key, config in configs.items():
        bound = sum(ideal_waits_s(config, LENGTHS, UPDATE_S)) + config.num_steps * UPDATE_S
        rows.append(
            {
                "staleness": key[0],
                "window": key[1],
                "seconds": seconds(key),
                "bound_s": bound,
                "bound_fraction": bound / seconds(key),
                "work_s": work_s(config),
                "gain": seconds((0, 1)) / seconds(key),
                **favour(of_setting(repetitions, key)[0]["trained"]),
            }
        )
    return rows


def of_setting(repetitions: list[dict[str, Any]], key: tuple[int, int]) -> list[dict[str, Any]]:
    """The repetitions of one setting, which is a staleness and a window."""
    return [found for found in repetitions if (found["staleness"], found["window"]) == key]


def gain_table(rows: list[dict[str, Any]], repetitions: list[dict[str, Any]]) -> Table:
    table = Table(title="Asynchronous against synchronous, on engines that sleep")
    for name in ("staleness", "window", "stalest seen", "seconds", "bound", "share of bound", "work", "gain"):
        table.add_column(name, justify="right")
    for row in rows:
        runs = of_setting(repetitions, (row["staleness"], row["window"]))
        stalest = max(group["lag"] for run in runs for group in run["trained"])
        table.add_row(
            str(row["staleness"]), str(row["window"]), f"{stalest:g}", f"{row['seconds']:.1f}",
            f"{row['bound_s']:.1f}", f"{row['bound_fraction']:.3f}", f"{row['work_s']:.1f}", f"{row['gain']:.2f}",
        )  # fmt: skip
    return table


def favour_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="Are short groups favoured?")
    for name in (
        "staleness",
        "window",
        "staleness by quartile of length",
        "first 5 steps s",
        "rest s",
        "drawn s",
    ):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            str(row["staleness"]), str(row["window"]), " ".join(f"{lag:.2f}" for lag in row["lag_by_quartile"]),
            *(f"{row[name]:.2f}" for name in ("first_five_s", "rest_s", "drawn_s")),
        )  # fmt: skip
    return table


def report(configs: dict[tuple[int, int], GRPOConfig], repetitions: list[dict[str, Any]]) -> None:
    rows = summary(configs, repetitions)
    Console(width=120).print(gain_table(rows, repetitions))
    Console(width=120).print(favour_table(rows))
    out = Path(__file__).parent / "out" / "async_gain.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"repetitions": repetitions, "rows": rows}, indent=1))
    worst = min(row["bound_fraction"] for row in rows if row["staleness"])
    best = max(row["gain"] for row in rows)
    print(f"RESULT bound_fraction={worst:.3f} gain={best:.3f}")


if __name__ == "__main__":
    main()

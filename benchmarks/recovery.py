"""How long until a run is whole again when a role is killed, and how much of its time is useful under kills?

    python benchmarks/recovery.py [--steps 60] [--each-role 3] [--seed 0]

The quickstart's model on real engines. Part one kills each role once in a quiet run and waits until as many workers
serve as before and a step takes no longer than before (its median and a quarter): recovered is when the first such
step begins. Beside it stands how long the role's start alone took. Part two is chaos: 60 steps of 24 groups,
checkpoints every 5; a role is killed at a random moment, 1 to 3 times the slowest start after the last recovery,
every role three times and the driver once; then the same command goes on. The effective share of the time (ETTR) is
what the steps that survived would have taken undisturbed, as the median of those between the recoveries, over what the
run took.
Part three, on engines that sleep, whose starts and steps cost nothing but time: the share of the throughput that is
left over 20 steps when one process is killed at their beginning.
"""

import argparse
import json
import os
import random
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from observed_run import ROLES, ObservedRun, kill_actor
from rich.console import Console
from rich.table import Table
from sleeping import SLEEPERS, Lengths, SleepingRun, local_ray, say

from rl_empathy.config.sections import GRPOConfig


def began(line: dict[str, Any]) -> float:
    return float(line["time"] - line["time/step_s"])


def usual_step_s(run: ObservedRun) -> float:
    """Time of an undisturbed step, once there are a few."""
    run.wait_for(lambda line: line["step"] == 8, "step 8")
    return statistics.median(line["time/step_s"] for line in run.lines()[3:])


def quiet() -> dict[str, Any]:
    """Recoveries one by one: kill, wait until the run is whole."""
    run = ObservedRun("recovery_quiet", "grpo.num_steps=10000", "grpo.checkpoint_every=5")
    run.start()
    usual_s = usual_step_s(run)
    workers = run.lines()[-1]["fleet/rollout_workers_ready"]
    recovery_s, start_s = {}, {}
    for role in ROLES:
        before, killed_at = run.lines()[-1], time.time()
        run.kill(role)

        def whole(line: dict[str, Any], killed_at: float = killed_at) -> bool:
            return (
                began(line) > killed_at
                and line["fleet/rollout_workers_ready"] == workers
                and line["time/step_s"] < 1.25 * usual_s
            )

        line = run.wait_for(whole, f"its old speed after a {role} died")
        if line["fleet/restarts"] != before["fleet/restarts"] + 1:
            raise SystemExit(f"a {role} was killed, and the run counts {line['fleet/restarts']:g} restarts")
        recovery_s[role] = began(line) - killed_at
        start_s[role] = line["fleet/restart_s"] - before["fleet/restart_s"]
    assert run.process is not None
    run.process.send_signal(signal.SIGTERM)
    run.process.wait()
    return {"usual_step_s": usual_s, "recovery_s": recovery_s, "start_s": start_s}


def chaos(steps: int, each_role: int, slowest_start_s: float, seed: int) -> dict[str, Any]:
    """Kills at random moments until every role had its share."""
    dice = random.Random(seed)
    victims = [role for role in ROLES for _ in range(each_role)] + ["driver"]
    dice.shuffle(victims)
    run = ObservedRun(
        "recovery_chaos", f"grpo.num_steps={steps}", "grpo.groups_per_step=24", "grpo.checkpoint_every=5"
    )
    run.start()
    run.wait_for(lambda line: line["step"] == 3, "step 3")
    workers = run.lines()[-1]["fleet/rollout_workers_ready"]
    started = began(run.lines()[0])
    kills = []
    for victim in victims:
        time.sleep(slowest_start_s * dice.uniform(1, 3))
        before = run.lines()[-1]
        if before["step"] >= steps - 2:  # too near its end to be seen recovering
            break
        kills.append(kill_and_wait(run, victim, before, workers))
    assert run.process is not None
    code = run.process.wait()
    lines = run.lines()
    usual_s = undisturbed_step_s(lines, kills)
    took_s = lines[-1]["time"] - started
    quarter = len(lines) // 4
    rewards = [line["reward/mean"] for line in lines]
    return {
        "exit_code": code,
        "kills": kills,
        "wanted_kills": len(victims),
        "steps": [line["step"] for line in lines] == list(range(1, steps + 1)),
        "duplicates": lines[-1]["ledger/duplicates"],
        "trained": lines[-1]["ledger/trained"],
        "usual_step_s": usual_s,
        "took_s": took_s,
        "ettr": steps * usual_s / took_s,
        "reward_first_quarter": statistics.mean(rewards[:quarter]),
        "reward_last_quarter": statistics.mean(rewards[-quarter:]),
    }


def kill_and_wait(run: ObservedRun, victim: str, before: dict[str, Any], workers: float) -> dict[str, Any]:
    """Kill a role or the driver, and wait until the run is whole again.

    Args:
        run: The run that is disturbed.
        victim: A role, or "driver".
        before: The last line of the run's record before the kill.
        workers: Rollout workers that serve in a whole run.
    """
    at = time.time()
    if victim == "driver":
        run.kill_driver()
        run.start()
        spent_s = -1.0  # its successor counts from 0
    else:
        run.kill(victim)
        spent_s = before["fleet/restart_s"]
    sys.stderr.write(f"killed the {victim} after step {before['step']}\n")

    def recovered(line: dict[str, Any]) -> bool:
        return (
            line["time"] > at
            and line["fleet/restart_s"] > spent_s  # counted when it is up again
            and line["fleet/rollout_workers_ready"] == workers
        )

    line = run.wait_for(recovered, f"a whole step after a {victim} died")
    return {"victim": victim, "step": before["step"], "at": at, "back_at": line["time"]}


def undisturbed_step_s(lines: list[dict[str, Any]], kills: list[dict[str, Any]]) -> float:
    """Median time of the steps that lie outside of all kills and their recoveries; the first two are left out."""
    return statistics.median(
        line["time/step_s"]
        for line in lines[2:]
        if not any(kill["at"] < line["time"] and began(line) < kill["back_at"] for kill in kills)
    )


def sleeping() -> dict[str, float]:
    """Share of the throughput that is left over 20 steps of 1 s when one process is killed at their beginning."""
    shares = {}
    with local_ray(4) as folder:
        for kind, actor in SLEEPERS.items():
            run = SleepingRun(
                config=GRPOConfig(
                    num_steps=30, groups_per_step=8, group_size=2, max_staleness=2, checkpoint_every=5
                ),
                workers=4,
                processes=4,
                lengths=Lengths(mean_s=1.0, sigma=0.5),
                update_s=1.0,
                tell=say,
            )

            def strike(run: SleepingRun = run, actor: type = actor) -> None:
                if run.lines[-1]["step"] == 10 and run.lines[-1]["fleet/restarts"] == 0:
                    kill_actor(actor.__name__, below=os.getpid())

            run.each_step = strike
            place = folder / kind
            place.mkdir()
            run.run(place)
            at = [line["time"] for line in run.lines]
            usual_s = statistics.median(line["time/step_s"] for line in run.lines[3:10])
            shares[kind] = 20 * usual_s / (at[-1] - at[9])
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--each-role", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    calm = quiet()
    wild = chaos(arguments.steps, arguments.each_role, max(calm["start_s"].values()), arguments.seed)
    table = Table(
        "killed", "recovered after s", "its start alone s", title=f"usual step: {calm['usual_step_s']:.1f} s"
    )
    for role, seconds in calm["recovery_s"].items():
        table.add_row(role, f"{seconds:.1f}", f"{calm['start_s'][role]:.1f}")
    Console(width=100).print(table)
    shares = sleeping()
    table = Table("chaos", "", title=f"{len(wild['kills'])} of {wild['wanted_kills']} kills")
    for name, value in wild.items():
        if name not in ("kills", "wanted_kills"):
            table.add_row(name, f"{value:.2f}" if isinstance(value, float) else str(value))
    Console(width=100).print(table)
    table = Table(
        "killed", "share of the throughput", title="Engines that sleep: 20 steps of 1 s after one kill"
    )
    for kind, share in shares.items():
        table.add_row(kind, f"{share:.2f}")
    Console(width=100).print(table)
    out = Path(__file__).parent / "out" / "recovery.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"quiet": calm, "chaos": wild, "sleeping": shares}, indent=1))
    print(f"RESULT recovery_s={max(calm['recovery_s'].values()):.1f} ettr={wild['ettr']:.3f}")


if __name__ == "__main__":
    main()

"""How long until a run is whole again when a role is killed, and how much of its time is useful under kills?

    python benchmarks/recovery.py [--steps 60] [--each-role 3] [--seed 0]

The quickstart's model, 60 steps of 16 groups, checkpoints every 5, real engines. Part one kills each role once in a
quiet run and waits until as many workers serve as before and a step takes no longer than before (its median and a
quarter). Part two is chaos: a role is killed at a random moment, 1 to 3 times the slowest role's measured start after
the last recovery, every role three times and the driver once; then the same command goes on. The effective share of
the time (ETTR) is what the steps that survived would have taken in the quiet run, over what the run took.
"""

import argparse
import json
import random
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from real_roles import finished_quickstart
from rich.console import Console
from rich.table import Table

ROLES = {
    "rollout worker": "RolloutWorker",
    "policy trainer": "PolicyTrainer",
    "reward model": "RewardModel",
    "reference model": "ReferenceModel",
}
LIMIT_S = 1800


class ObservedRun:
    """A run of stage grpo as a process, seen through its record."""

    def __init__(self, name: str, steps: int) -> None:
        """The process is not started yet; a run directory of an earlier time is set aside at the first start."""
        record = finished_quickstart()
        self.folder = Path("runs") / name
        self._command = [
            sys.executable, "-m", "rl_empathy.train", "configs/quickstart.yaml", f"run.name={name}",
            "run.stages=[reward_modeling, grpo]", f"model={{path: {record / 'sft' / 'model'}, from_scratch: null}}",
            f"grpo.num_steps={steps}", "grpo.groups_per_step=16", "grpo.checkpoint_every=5", "logging.wandb=disabled",
        ]  # fmt: skip
        self._fresh = ["--fresh"] if self.folder.exists() else []
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen([*self._command, *self._fresh])
        self._fresh = []

    def lines(self) -> list[dict[str, Any]]:
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return []
        text = path.read_text().splitlines()
        return [line for line in map(json.loads, text) if line["stage"] == "grpo"]

    def kill(self, role: str) -> None:
        """SIGKILL a process of a role; Ray writes the actor's class into its command line."""
        assert self.process is not None
        for process in psutil.Process(self.process.pid).children(recursive=True):
            if ROLES[role] in " ".join(process.cmdline()[:1]):
                process.send_signal(signal.SIGKILL)
                return
        raise RuntimeError(f"there is no {role} to kill")

    def wait_for(self, condition: Any, what: str) -> float:
        """Seconds until the record fulfils a condition."""
        started = time.monotonic()
        while not condition(self.lines()):
            assert self.process is not None
            if self.process.poll() is not None:
                raise SystemExit(f"the run ended with {self.process.returncode} before {what}")
            if time.monotonic() > started + LIMIT_S:
                raise SystemExit(f"in {LIMIT_S} s the run did not come to {what}")
            time.sleep(0.1)
        return time.monotonic() - started


def whole_again(killed_at: float, usual_s: float, workers: int) -> Any:
    """A step that began after the kill, with every worker, in the usual time."""

    def condition(lines: list[dict[str, Any]]) -> bool:
        return any(
            line["time"] - line["time/step_s"] > killed_at
            and line["fleet/rollout_workers_ready"] == workers
            and line["time/step_s"] < 1.25 * usual_s
            for line in lines
        )

    return condition


def quiet() -> dict[str, Any]:
    """Recoveries one by one: kill, wait until the run is whole."""
    run = ObservedRun("recovery_quiet", steps=10_000)
    run.start()
    run.wait_for(lambda lines: len(lines) >= 8, "step 8")
    usual_s = statistics.median(line["time/step_s"] for line in run.lines()[3:])
    workers = int(run.lines()[-1]["fleet/rollout_workers_ready"])
    seconds = {}
    for role in ROLES:
        killed_at = time.time()
        run.kill(role)
        seconds[role] = run.wait_for(
            whole_again(killed_at, usual_s, workers), f"its old speed after a {role} died"
        )
    assert run.process is not None
    run.process.send_signal(signal.SIGTERM)
    run.process.wait()
    return {"usual_step_s": usual_s, "recovery_s": seconds}


def chaos(steps: int, each_role: int, usual: dict[str, Any], seed: int) -> dict[str, Any]:
    """Kills at random moments until every role had its share."""
    dice = random.Random(seed)
    victims = [role for role in ROLES for _ in range(each_role)] + ["driver"]
    dice.shuffle(victims)
    slowest_s = max(usual["recovery_s"].values())
    run = ObservedRun("recovery_chaos", steps)
    run.start()
    run.wait_for(lambda lines: len(lines) >= 1, "step 1")
    started = time.time() - run.lines()[0]["time/step_s"]
    killed = []
    for victim in victims:
        time.sleep(slowest_s * dice.uniform(1, 3))
        assert run.process is not None
        if run.process.poll() is not None:
            break
        before = run.lines()[-1]["step"]
        at = time.time()
        if victim == "driver":
            run.process.kill()
            run.process.wait()
            run.start()
        else:
            run.kill(victim)
        killed.append({"victim": victim, "step": before, "at_s": at - started})
        run.wait_for(lambda lines, at=at: bool(lines) and lines[-1]["time"] > at, "a step after the kill")
        sys.stderr.write(f"killed the {victim} after step {before}\n")
    assert run.process is not None
    code = run.process.wait()
    lines = run.lines()
    took_s = lines[-1]["time"] - started
    quarter = len(lines) // 4
    rewards = [line["reward/mean"] for line in lines]
    return {
        "exit_code": code,
        "kills": killed,
        "wanted_kills": len(victims),
        "steps": [line["step"] for line in lines] == list(range(1, steps + 1)),
        "duplicates": lines[-1]["ledger/duplicates"],
        "trained": lines[-1]["ledger/trained"],
        "took_s": took_s,
        "ettr": steps * usual["usual_step_s"] / took_s,
        "reward_first_quarter": statistics.mean(rewards[:quarter]),
        "reward_last_quarter": statistics.mean(rewards[-quarter:]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--each-role", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    calm = quiet()
    wild = chaos(arguments.steps, arguments.each_role, calm, arguments.seed)
    table = Table(
        "killed", "seconds until the run was whole", title=f"usual step: {calm['usual_step_s']:.2f} s"
    )
    for role, seconds in calm["recovery_s"].items():
        table.add_row(role, f"{seconds:.1f}")
    Console(width=100).print(table)
    named = (
        "exit_code",
        "steps",
        "duplicates",
        "trained",
        "took_s",
        "reward_first_quarter",
        "reward_last_quarter",
    )
    table = Table("chaos", "", title=f"{len(wild['kills'])} of {wild['wanted_kills']} kills")
    for name in named:
        value = wild[name]
        table.add_row(name, f"{value:.2f}" if isinstance(value, float) else str(value))
    Console(width=100).print(table)
    out = Path(__file__).parent / "out" / "recovery.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"quiet": calm, "chaos": wild}, indent=1))
    print(f"RESULT recovery_s={max(calm['recovery_s'].values()):.1f} ettr={wild['ettr']:.3f}")


if __name__ == "__main__":
    main()

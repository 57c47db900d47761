"""Roles that are stopped (SIGSTOP), wake up after they were replaced, or are slow: the run tells of it and goes on.

Real processes, fleet and loop; the engines sleep, so that a phase is long enough to be struck in. Whoever enters the
phase stops the victim, itself or another role.
"""

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.sleeping import (
    EqualRewards,
    Lengths,
    NoLogprobs,
    NumberedRole,
    SleepingRun,
    SleepingTrainer,
    SleepingWorker,
    local_ray,
)
from rl_empathy.config.sections import DeadlinesConfig, GRPOConfig

HEALTH_S = 3.0
PHASE_S = 0.3
VICTIMS = ["rollout_worker_0", "reward_model", "reference_model", "policy_trainer"]
PHASES = ["sample", "score", "update", "publish", "save"]


def give_pid(log: str) -> None:
    Path(log).with_suffix(".pid").write_text(str(os.getpid()))


def pid_of(folder: Path, role: str) -> int:
    return int((folder / f"{role}.pid").read_text())


def enter(phase: str, log: str) -> None:
    """Stop the role that the test wants stopped in this phase, once."""
    folder = Path(log).parent
    try:
        (folder / phase).rename(folder / "struck")
    except FileNotFoundError:
        return
    os.utime(folder / "struck")
    os.kill(pid_of(folder, (folder / "struck").read_text()), signal.SIGSTOP)
    time.sleep(PHASE_S)


class Worker(SleepingWorker):
    def __init__(self, log, **settings):
        super().__init__(log, **settings)
        self.log = log
        give_pid(log)

    async def sample(self, *arguments):
        enter("sample", self.log)
        written = await super().sample(*arguments)
        with Path(self.log).with_name(f"written_by_{os.getpid()}").open("a") as file:
            file.write(f"{time.time()}\n")
        return written

    async def load_weights(self, *arguments):
        enter("publish", self.log)
        return await super().load_weights(*arguments)


class SlowFirstWorker(SleepingWorker):
    """Worker 0 takes ten times as long."""

    def __init__(self, log, *, lengths):
        factor = 10 if "rollout_worker_0" in log else 1
        super().__init__(log, lengths=Lengths(mean_s=factor * lengths.mean_s, sigma=lengths.sigma))


class RewardModel(EqualRewards):
    def __init__(self, log):
        self.log = log
        give_pid(log)

    def score(self, group):
        enter("score", self.log)
        return super().score(group)


class ReferenceModel(NoLogprobs):
    def __init__(self, log):
        give_pid(log)


class Trainer(SleepingTrainer):
    def __init__(self, log, **settings):
        super().__init__(log, **settings)
        self.log = log
        give_pid(log)

    def update(self, *arguments):
        enter("update", self.log)
        return super().update(*arguments)

    def write_snapshot(self):
        enter("save", self.log)
        super().write_snapshot()


CLASSES = {
    "rollout_worker": Worker,
    "reward_model": RewardModel,
    "reference_model": ReferenceModel,
    "policy_trainer": Trainer,
}


@pytest.fixture(scope="module")
def ray_of_this_machine():
    with local_ray(4):
        yield


def make_run(told, **settings) -> SleepingRun:
    defaults = {
        "classes": CLASSES,
        "workers": 2,
        "processes": 2,
        "lengths": Lengths(mean_s=PHASE_S, sigma=0.5),
        "update_s": PHASE_S,
    }
    return SleepingRun(
        config=GRPOConfig(num_steps=12, groups_per_step=4, group_size=2, max_staleness=1, checkpoint_every=2),
        deadlines=DeadlinesConfig(health_s=HEALTH_S),
        tell=lambda text: told.append((time.time(), text)),
        **defaults | settings,
    )


def strike_in(run: SleepingRun, folder: Path, victim: str, phase: str) -> None:
    """Have a role stopped in a phase after step 3."""

    def ask():
        if run.lines[-1]["step"] == 3 and not (folder / "struck").exists():
            (folder / "asked").write_text(victim)
            (folder / "asked").rename(folder / phase)  # whole, since whoever enters reads it at once

    run.each_step = ask


def when(told, words) -> tuple[float, str]:
    return next((at, text) for at, text in told if words in text)


def check_accounts(folder: Path, run: SleepingRun, *, restarts: int) -> None:
    assert run.lines[-1]["step"] == 12
    assert run.lines[-1]["fleet/restarts"] == restarts
    assert run.lines[-1]["ledger/duplicates"] == 0
    assert max(line["staleness/max"] for line in run.lines) <= 1
    entries = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    survivors = {(line["epoch"], line["index"]): line for line in entries}
    trained = Counter(line["step"] for line in survivors.values() if line["state"] == "trained")
    assert trained == dict.fromkeys(range(1, 13), 4)


@pytest.mark.long
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("victim", VICTIMS)
def test_a_role_that_is_stopped_in_a_phase_is_named_in_time_and_the_run_goes_on(
    ray_of_this_machine, tmp_path, victim, phase
):
    told = []
    run = make_run(told)
    strike_in(run, tmp_path, victim, phase)
    run.run(tmp_path)
    at, text = when(told, "did not answer within")
    assert victim in text
    assert at - (tmp_path / "struck").stat().st_mtime < HEALTH_S + 10
    check_accounts(tmp_path, run, restarts=1)


@pytest.mark.long
def test_a_worker_that_wakes_up_after_it_was_replaced_answers_to_nobody(
    ray_of_this_machine, tmp_path, monkeypatch
):
    """As behind a network that fails and comes back: the process cannot be killed meanwhile."""
    told, sleeper = [], []
    monkeypatch.setattr(NumberedRole, "kill", lambda role: sleeper.append(pid_of(tmp_path, role.name)))
    run = make_run(told)
    tell = run.tell

    def tell_and_wake(text):
        tell(text)
        if "is up again" in text:
            os.kill(sleeper[0], signal.SIGCONT)

    run.tell = tell_and_wake
    strike_in(run, tmp_path, "rollout_worker_0", "sample")
    run.run(tmp_path)
    woken_at, _ = when(told, "rollout_worker_0 is up again")
    written_at = map(float, (tmp_path / f"written_by_{sleeper[0]}").read_text().split())
    assert any(at > woken_at for at in written_at), "it went on with what it had"
    check_accounts(tmp_path, run, restarts=1)


@pytest.mark.long
def test_a_slow_worker_makes_nothing_too_stale_and_is_seen_in_the_metrics(ray_of_this_machine, tmp_path):
    run = make_run([], classes=CLASSES | {"rollout_worker": SlowFirstWorker})
    run.run(tmp_path)
    check_accounts(tmp_path, run, restarts=0)
    longest = max(line["time/sample_max_s"] for line in run.lines)
    assert longest > 4 * min(line["time/sample_mean_s"] for line in run.lines)

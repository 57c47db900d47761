"""Roles of a real run are killed or stopped: the run goes on, and every prompt is accounted for."""

import json
import random
import signal
import subprocess
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from rl_empathy.orchestration.scaling import ask_by_hand
from tests.frozen_threads import freeze_threads, wait_until_ended
from tests.ray.test_runs import LIMIT_S, ledger, metrics, run, start, wait_for_step

ROLES = ["RolloutWorker", "RewardModel", "ReferenceModel", "PolicyTrainer"]


def process_of(parent_pid: int, role: str) -> psutil.Process:
    """A process of a role, below the one that started Ray; Ray writes the actor's class into its command line."""
    for process in psutil.Process(parent_pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # one that ends meanwhile
            if role in " ".join(process.cmdline()[:1]):
                return process
    raise AssertionError(f"there is no {role}")


def strike(folder: Path, run: subprocess.Popen[str], role: str, number: signal.Signals) -> None:
    """Send a signal to a role in the middle of the run, and wait until the run has noticed and goes on."""
    before, struck_at = metrics(folder)[-1]["fleet/restarts"], time.time()
    process_of(run.pid, role).send_signal(number)
    deadline = time.monotonic() + LIMIT_S
    # A trainer that is lost before its first checkpoint takes every line with it. Older lines do not count: an earlier
    # driver may have written them, with restarts of its own.
    while not any(line["time"] > struck_at and line["fleet/restarts"] > before for line in metrics(folder)):
        assert run.poll() is None, run.stderr.read()[-3000:]
        assert time.monotonic() < deadline, f"the run did not go on without its {role}"
        time.sleep(0.05)


def check_accounts(folder: Path, *, num_steps: int, restarts: int) -> None:
    lines = metrics(folder)
    assert [line["step"] for line in lines] == list(range(1, num_steps + 1))
    assert lines[-1]["fleet/restarts"] == restarts
    assert lines[-1]["ledger/duplicates"] == 0
    assert lines[-1]["ledger/trained"] == num_steps * 4
    assert max(line["staleness/max"] for line in lines) <= 1
    survivors = {(line["epoch"], line["index"]): line for line in ledger(folder)}
    trained = Counter(line["step"] for line in survivors.values() if line["state"] == "trained")
    assert trained == dict.fromkeys(range(1, num_steps + 1), 4)
    for step in range(1, num_steps + 1):
        path = folder / "tiny" / "rollouts" / f"step_{step:06d}.jsonl"
        rollouts = [json.loads(line) for line in path.read_text().splitlines()]
        written = {tuple(line["occurrence"]) for line in rollouts}
        assert written == {
            o for o, line in survivors.items() if line.get("step") == step and line["state"] == "trained"
        }


def test_every_role_may_be_killed_and_the_run_goes_on(tmp_path):
    folder = tmp_path / "runs"
    with start(folder, "grpo.num_steps=24", "cluster.restarts.each_role=1") as run:
        for step, role in enumerate(ROLES, start=2):
            wait_for_step(folder, run, step)
            strike(folder, run, role, signal.SIGKILL)
        assert run.wait(timeout=LIMIT_S) == 0, run.stderr.read()[-3000:]
    check_accounts(folder, num_steps=24, restarts=len(ROLES))


@pytest.mark.long
def test_a_lost_trainer_gets_its_place_although_workers_have_waited_for_one(tmp_path):
    """The cluster is full, and of two workers more that are asked for one at least is not needed and waits."""
    folder = tmp_path / "runs"
    with start(folder, "grpo.num_steps=40") as run:
        wait_for_step(folder, run, 2)
        ask_by_hand(folder / "tiny", 4)
        wait_for_step(folder, run, 10)
        strike(folder, run, "PolicyTrainer", signal.SIGKILL)
        assert run.wait(timeout=LIMIT_S) == 0, run.stderr.read()[-3000:]
        told = run.stderr.read()
    assert "is not started: policy_trainer needs a place first" in told
    check_accounts(folder, num_steps=40, restarts=1)


@pytest.mark.long
def test_a_rank_that_dies_takes_all_back_to_the_last_checkpoint(tmp_path):
    folder = tmp_path / "runs"
    with start(folder, "grpo.num_steps=12", "cluster.policy_trainer={ranks: 2, zero_stage: 2}") as run:
        wait_for_step(folder, run, 3)
        strike(folder, run, "PolicyTrainer", signal.SIGKILL)
        told = run.communicate(timeout=LIMIT_S)[1]
        assert run.returncode == 0, told[-3000:]
    assert "policy_trainer_rank_" in told
    assert "Starting policy_trainer anew (restart 1)" in told
    check_accounts(folder, num_steps=12, restarts=1)


@pytest.mark.long
def test_every_role_and_the_driver_may_be_killed_at_random_moments(tmp_path):
    """However slow the machine, the run has steps left when the last role is struck; the test stops it then."""
    folder, dice = tmp_path / "runs", random.Random(0)
    victims = [*ROLES, "driver"]
    dice.shuffle(victims)
    run = start(folder, "grpo.num_steps=5000")
    wait_for_step(folder, run, 1)
    for victim in victims:
        time.sleep(dice.uniform(2, 10))
        if victim != "driver":
            strike(folder, run, victim, signal.SIGKILL)
            continue
        run.kill()
        run.wait(timeout=30)
        killed_at, deadline = time.time(), time.monotonic() + LIMIT_S
        run = start(folder, "grpo.num_steps=5000")
        while not any(line["time"] > killed_at for line in metrics(folder)):
            assert run.poll() is None, run.stderr.read()[-3000:]
            assert time.monotonic() < deadline, "the run did not go on without its driver"
            time.sleep(0.1)
    run.send_signal(signal.SIGTERM)
    assert run.wait(timeout=LIMIT_S) == 75, run.stderr.read()[-3000:]
    run.stderr.close()
    steps = metrics(folder)[-1]["step"]
    check_accounts(folder, num_steps=steps, restarts=len(ROLES) - victims.index("driver"))


@pytest.mark.long
@pytest.mark.parametrize("role", ROLES)
def test_a_role_that_hangs_is_replaced(tmp_path, role):
    folder = tmp_path / "runs"
    with start(folder, "grpo.num_steps=40", "cluster.deadlines.health_s=5") as run:
        wait_for_step(folder, run, 2)
        strike(folder, run, role, signal.SIGSTOP)
        assert run.wait(timeout=LIMIT_S) == 0, run.stderr.read()[-3000:]
    check_accounts(folder, num_steps=40, restarts=1)


@pytest.mark.long
def test_rewards_that_fail_are_dropped_and_counted_and_never_zero(tmp_path):
    """One of 8 prompts has a judge that raises, one a score that is no number, one scores for one completion only."""
    folder = tmp_path / "runs"
    rewards = "rewards.terms=[{kind: function, function: tests.rewards.unreliable, sees: all, retries: 0}]"
    with start(folder, rewards) as run:
        assert run.wait(timeout=LIMIT_S) == 0, run.stderr.read()[-3000:]
    check_accounts(folder, num_steps=8, restarts=0)
    survivors = {(line["epoch"], line["index"]): line for line in ledger(folder)}
    dropped = {key for key, line in survivors.items() if line.get("reason") == "reward_failed"}
    assert len(dropped) >= 5
    assert {index % 8 for _, index in dropped} == {3, 7}
    assert metrics(folder)[-1]["ledger/dropped/reward_failed"] == len(dropped)
    paths = (folder / "tiny" / "rollouts").glob("step_*.jsonl")
    lines = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    assert {line["occurrence"][1] for line in lines if line["occurrence"][1] % 8 in (3, 7)} == {3}
    assert all(line["reward"] is None or line["reward"] > 0 for line in lines)
    scored = {
        key: [line["reward"] for line in lines if tuple(line["occurrence"]) == key] for key in survivors
    }
    no_number = [rewards for (_, index), rewards in scored.items() if index % 8 == 5 and rewards]
    assert len(no_number) >= 3
    assert all(rewards[0] is None and None not in rewards[1:] for rewards in no_number)


@pytest.mark.long
def test_a_group_whose_judge_never_ends_is_dropped_by_name_and_the_others_are_trained(tmp_path):
    """It costs the reward model its life twice, and no more: the run has a budget, and a resume would meet it again."""
    folder = tmp_path / "runs"
    rewards = "rewards.terms=[{kind: function, function: tests.rewards.stubborn, sees: all}]"
    with start(folder, rewards, "grpo.reward_retries=1", "cluster.deadlines.score_s=5") as run:
        assert run.wait(timeout=LIMIT_S) == 0, run.stderr.read()[-3000:]
    check_accounts(folder, num_steps=8, restarts=2)
    dropped = [line for line in ledger(folder) if line["state"] == "dropped"]
    assert [(line["epoch"], line["index"], line["reason"]) for line in dropped] == [(0, 5, "scorer_lost")]


@pytest.mark.long
def test_a_rank_that_hangs_takes_all_back_to_the_last_checkpoint(tmp_path):
    folder = tmp_path / "runs"
    trainer = "cluster.policy_trainer={ranks: 2, zero_stage: 3}"
    with start(folder, "grpo.num_steps=20", trainer, "cluster.deadlines.health_s=5") as run:
        wait_for_step(folder, run, 3)
        strike(folder, run, "PolicyTrainer", signal.SIGSTOP)
        assert run.wait(timeout=LIMIT_S) == 0, run.stderr.read()[-3000:]
    check_accounts(folder, num_steps=20, restarts=1)


@pytest.mark.long
def test_a_collective_that_hangs_while_all_ranks_are_alive_ends_at_the_deadline_of_an_update(tmp_path):
    """In one rank the threads that move gloo's bytes stand still: no reduction ends, and every pulse is answered."""
    folder = tmp_path / "runs"
    trainer = "cluster.policy_trainer={ranks: 2, zero_stage: 2}"
    with start(folder, "grpo.num_steps=12", trainer, "cluster.deadlines={update_s: 20, health_s: 5}") as run:
        wait_for_step(folder, run, 3)
        frozen = freeze_threads(process_of(run.pid, "PolicyTrainer"), "gloo_tcp_loop")
        frozen_at = time.monotonic()
        wait_until_ended(frozen, seconds=20 + 10)
        assert time.monotonic() - frozen_at > 3 * 5, "it was taken for dead"
        told = run.communicate(timeout=LIMIT_S)[1]
        assert run.returncode == 0, told[-3000:]
    assert "did not update the policy within 20 s. Its log, with the place of every thread" in told
    assert "Starting policy_trainer anew (restart 1)" in told
    logs = [folder / "tiny/logs/attempt_01" / f"policy_trainer_rank_{rank}.log" for rank in (0, 1)]
    assert all("in all_reduce" in log.read_text() for log in logs)
    check_accounts(folder, num_steps=12, restarts=1)


@pytest.mark.long
def test_when_every_rollout_worker_is_gone_the_run_says_so_in_time_and_a_resume_goes_on(tmp_path):
    folder = tmp_path / "runs"
    settings = ("grpo.num_steps=40", "cluster.restarts.each_role=0", "cluster.deadlines.workers_s=20")
    with start(folder, *settings) as run:
        wait_for_step(folder, run, 3)
        for _ in range(2):
            process = process_of(run.pid, "RolloutWorker")
            process.kill()
            process.wait(timeout=30)
        killed_at = time.monotonic()
        assert run.wait(timeout=LIMIT_S) == 4
        assert time.monotonic() - killed_at < 20 + 30  # the deadline, and the end of the other roles
        told = run.stderr.read()
    assert "rollout_worker" in told
    assert "cluster.restarts.each_role (0) is spent" in told
    with start(folder, "grpo.num_steps=40") as run:
        assert run.wait(timeout=LIMIT_S) == 0, run.stderr.read()[-3000:]
    check_accounts(folder, num_steps=40, restarts=0)


@pytest.mark.long
def test_spent_restarts_end_the_run_with_the_name_of_the_role_and_a_resume_goes_on(tmp_path):
    folder = tmp_path / "runs"
    settings = ("grpo.num_steps=40", "cluster.restarts.each_role=0")
    with start(folder, *settings) as run:
        wait_for_step(folder, run, 3)
        process_of(run.pid, "PolicyTrainer").send_signal(signal.SIGKILL)
        assert run.wait(timeout=LIMIT_S) == 4
        told = run.stderr.read()
    assert "policy_trainer" in told
    assert "cluster.restarts.each_role (0) is spent" in told
    with start(folder, "grpo.num_steps=40") as run:
        assert run.wait(timeout=LIMIT_S) == 0, run.stderr.read()[-3000:]
    check_accounts(folder, num_steps=40, restarts=0)


@pytest.mark.long
def test_a_tracker_that_finds_no_server_writes_files_and_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    folder = tmp_path / "runs"
    with start(folder, "logging.wandb=online") as run:
        assert run.wait(timeout=LIMIT_S) == 0, run.stderr.read()[-3000:]
        assert "W&B did not start" in run.stderr.read()
    check_accounts(folder, num_steps=8, restarts=0)
    assert len(list(folder.glob("tiny/wandb/offline-run-*/*.wandb"))) == 1


@pytest.mark.long
def test_a_deterministic_run_whose_trainer_was_killed_equals_one_whose_was_not(tmp_path):
    """It went back to step 2 or 4 and made the steps after that anew, the same."""
    exact = ("run.deterministic=true", "grpo.max_staleness=0")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    with start(whole, *exact) as run:
        assert run.wait(timeout=LIMIT_S) == 0, run.stderr.read()[-3000:]
    with start(broken, *exact) as run:
        wait_for_step(broken, run, 3)
        process_of(run.pid, "PolicyTrainer").kill()
        told = run.communicate(timeout=LIMIT_S)[1]
        assert run.returncode == 0, told[-3000:]
    assert "Starting policy_trainer anew (restart 1)" in told
    check_accounts(broken, num_steps=8, restarts=1)
    assert [learning(line) for line in metrics(broken)] == [learning(line) for line in metrics(whole)]
    assert ledger(broken) == ledger(whole)


def learning(line: dict) -> dict:
    return {
        name: value
        for name, value in line.items()
        if not name.startswith(("time", "idle", "tokens", "fleet"))
    }


@pytest.mark.long
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one_and_with_fewer_rows_when_that_is_allowed(
    tmp_path,
):
    folder = tmp_path / "runs"
    with start(folder, "grpo.num_steps=60") as stopped:
        wait_for_step(folder, stopped, 5)
        stopped.terminate()
        assert stopped.wait(timeout=LIMIT_S) == 75, stopped.stderr.read()[-3000:]
    checkpoints = sorted((folder / "tiny" / "grpo").rglob("step_0*/policy.safetensors"))
    damaged, before = checkpoints[-1], checkpoints[-2].parent
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    last = int(before.name.removeprefix("step_")) + 3
    fewer = (f"grpo.num_steps={last}", "data.held_out_prompts=192")
    assert "data.held_out_prompts: 16 -> 192" in run(folder, *fewer, expect=2).stderr
    told = run(folder, *fewer, "--allow-config-change").stderr
    assert (
        f"policy.safetensors has another sha256 than the manifest says: going on from step {last - 3}" in told
    )
    check_accounts(folder, num_steps=last, restarts=0)


@pytest.mark.long
def test_a_policy_that_diverges_ends_its_run_by_name_and_every_skipped_update_is_counted(tmp_path):
    folder = tmp_path / "runs"
    diverging = "grpo.optimizer={learning_rate: 1.0e30, warmup_steps: 0, schedule: constant}"
    with start(folder, diverging, "grpo.keep_groups=all") as run:
        told = run.communicate(timeout=LIMIT_S)[1]
        assert run.returncode == 4, told[-3000:]
    assert "loss or gradient was not finite in 3 updates in a row (grpo.max_skipped_updates)" in told
    assert sum(line["policy/skipped_updates"] for line in metrics(folder)) == 2, "the third ends the run"
    assert metrics(folder)[-1]["ledger/duplicates"] == 0


@pytest.mark.long
def test_a_disk_that_fills_up_ends_the_run_by_name_and_with_room_it_goes_on_and_nothing_is_lost(small_disk):
    folder = small_disk(64) / "runs"
    folder.mkdir()
    with start(folder, "grpo.num_steps=30") as run_without_room:
        wait_for_step(folder, run_without_room, 5)
        filler = folder / "filler"
        fill = ["dd", "if=/dev/zero", f"of={filler}", "bs=4k"]
        assert "No space left" in subprocess.run(fill, capture_output=True, text=True).stderr
        told = run_without_room.communicate(timeout=LIMIT_S)[1]
        assert run_without_room.returncode == 3, told[-3000:]
    assert "No space left on device" in told
    assert "make room" in told
    assert not (folder / "tiny" / "model").exists()
    filler.unlink()
    run(folder, "grpo.num_steps=30")
    check_accounts(folder, num_steps=30, restarts=0)

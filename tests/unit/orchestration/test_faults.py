"""The real loop, fleet, buffer and ledger on simulated processes and a virtual clock, with seeded faults."""

import itertools
import json
from collections import Counter

import pytest

from rl_empathy.config.sections import RestartsConfig
from rl_empathy.errors import RoleDiedError, WeightSyncError
from tests.simulation import Fault, Simulation, occurrences, random_faults, staleness
from tests.virtual_clock import run_virtually


def check_contracts(simulation: Simulation) -> None:
    """What must hold after any run that ended."""
    config, last = simulation.config, simulation.disk.checkpoints[-1]
    assert last["step"] == config.num_steps
    trained = last["trained"]
    assert len(trained) == config.num_steps * config.groups_per_step
    assert max(Counter(occurrences(trained)).values()) == 1, "trained twice"
    assert max(map(staleness, trained)) <= config.max_staleness
    assert simulation.disk.exported == trained
    spans = {span.version for entry in trained for c in entry.group.completions for span in c.version_spans}
    undone = {version for version in spans - set(last["names"]) if version.number}  # 0 is the starting policy
    assert not undone, "tokens of undone weights were trained"
    # The ledger says the same as the weights, and knows of every prompt that was given out.
    lines = [json.loads(line) for line in (simulation.folder / "ledger.jsonl").read_text().splitlines()]
    ended = {(line["epoch"], line["index"]): line for line in lines}
    assert {tuple(o) for o in occurrences(trained)} == {
        o for o, line in ended.items() if line["state"] == "trained"
    }
    assert simulation.ledger.metrics()["ledger/duplicates"] == 0
    given = {tuple(o) for o in last["driver"]["opened"]} | set(ended)
    given |= {tuple(group.prompt.occurrence) for group in last["finished"]}
    assert given == {(e, i) for e in range(20) for i in range(5) if (e, i) < tuple(last["driver"]["cursor"])}
    steps = [
        json.loads(line)["step"] for line in (simulation.folder / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == list(range(1, config.num_steps + 1))


def simulated(folder, seed, faults, **settings) -> Simulation:
    simulation = Simulation(seed=seed, folder=folder, **settings)
    run_virtually(simulation.run(faults))
    return simulation


def test_a_run_without_faults_keeps_the_contracts(tmp_path):
    check_contracts(simulated(tmp_path, 0, []))


@pytest.mark.parametrize(
    ("role", "how"),
    [
        *itertools.product(
            ["rollout_worker_0", "reward_model", "reference_model", "policy_trainer"], ["kill", "hang"]
        ),
        ("driver", "kill"),
    ],
)
def test_any_role_may_die_or_hang_in_the_middle(tmp_path, role, how):
    simulation = simulated(tmp_path, 1, [Fault(25.0, role, how)])
    assert [(fault.role, fault.how) for fault in simulation.happened] == [(role, how)]
    check_contracts(simulation)
    if role != "driver":
        last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
        assert last["fleet/restarts"] == 1
        assert 0 < last["fleet/restart_s"] <= simulation.start_s
        assert f"{role} is up again after {last['fleet/restart_s']:.1f} s" in simulation.told


def test_a_worker_that_is_asked_to_go_ends_its_groups_and_another_one_takes_its_place(tmp_path):
    simulation = simulated(tmp_path, 1, [Fault(25.0, "rollout_worker_0", "notice")], grpo={"num_steps": 20})
    check_contracts(simulation)
    [told] = [text for text in simulation.told if "asked to go" in text]
    assert told == (
        "rollout_worker_0 on node a-node was asked to go (SIGTERM): it ends its groups, another one is started"
    )
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["fleet/restarts"] == 0, "it was not lost"
    assert last["fleet/rollout_workers_ready"] == 3
    assert last["ledger/retried"] == 0


@pytest.mark.parametrize("at_s", range(10, 40, 2))
def test_a_node_with_the_trainer_all_workers_and_the_published_weights_may_go(tmp_path, at_s):
    """At any moment, also one where the run waits for groups and nobody calls the trainer."""
    simulation = simulated(tmp_path, 1, [Fault(at_s, "policy_trainer", "node")], grpo={"num_steps": 20})
    assert len(simulation.happened) == 1
    check_contracts(simulation)


def test_a_trainer_that_dies_while_it_exports_the_policy_is_brought_back(tmp_path):
    struck = 0
    for at_s in range(10, 70, 2):
        folder = tmp_path / str(at_s)
        folder.mkdir()
        simulation = simulated(folder, 1, [Fault(at_s, "policy_trainer", "kill")], grpo={"num_steps": 1})
        check_contracts(simulation)
        struck += any("to export the model" in text for text in simulation.told)
    assert struck > 0, "none struck the export"


def test_no_worker_gets_more_groups_than_twice_what_it_runs_at_once(tmp_path):
    """Else those at the end of its queue would use up their deadline there: here 16 groups are due at a time."""
    grpo = {"groups_per_step": 8, "group_size": 2}
    simulation = simulated(tmp_path, 0, [], num_workers=1, max_running_sequences=4, grpo=grpo)
    check_contracts(simulation)
    assert simulation.processes["rollout_worker_0"].most_groups == 4


def test_all_workers_may_die_at_once(tmp_path):
    simulation = simulated(tmp_path, 2, [Fault(25.0, f"rollout_worker_{i}", "kill") for i in range(3)])
    assert len(simulation.happened) == 3
    check_contracts(simulation)


def test_what_waits_for_a_trainer_that_runs_out_of_memory_is_kept_unless_it_is_undone(tmp_path):
    kept = 0
    for at_s in range(20, 100, 5):
        folder = tmp_path / str(at_s)
        folder.mkdir()
        simulation = simulated(folder, 3, [Fault(at_s, "policy_trainer", "memory")], update_s=12.0)
        assert len(simulation.happened) == 1
        check_contracts(simulation)
        kept += any("groups that waited for the policy trainer are kept" in text for text in simulation.told)
    assert kept > 3, "those of the steps after a checkpoint"


def test_spent_restarts_end_the_run_with_the_error_that_spent_them(tmp_path):
    faults = [Fault(t, "policy_trainer", "kill") for t in (20.0, 60.0, 100.0)]
    restarts = RestartsConfig(each_role=1, whole_run=10)
    with pytest.raises(RoleDiedError, match=r"policy_trainer.*cluster\.restarts\.each_role \(1\) is spent"):
        simulated(tmp_path, 3, faults, restarts=restarts, grpo={"num_steps": 60})


def test_weights_that_no_worker_can_load_end_the_run_after_one_restart_of_each(tmp_path):
    told = []
    with pytest.raises(ExceptionGroup) as caught:
        simulated(tmp_path, 4, [], unloadable=lambda worker, version: version.number == 3, told=told)
    assert caught.group_contains(WeightSyncError, match=r"rollout_worker_\d.*the tensors do not fit.*\.log")
    restarts = Counter(text.split()[0] for text in told if "is up again" in text)
    assert set(restarts.values()) == {1}


@pytest.mark.parametrize("block", [0, 1, *(pytest.param(i, marks=pytest.mark.slow) for i in range(2, 50))])
def test_the_contracts_hold_over_random_schedules_of_faults(tmp_path, block):
    """100 schedules a block, of 1 to 6 faults of any role at any time, any bound of staleness and any window."""
    happened = 0
    for seed in range(block * 100, block * 100 + 100):
        folder = tmp_path / str(seed)
        folder.mkdir()
        faults = random_faults(seed, count=1 + seed % 6, num_workers=2, until_s=90.0)
        bound = seed % 4
        grpo = {"num_steps": 4, "max_staleness": bound, "look_ahead": 1 + seed % (2 * bound + 1)}
        simulation = simulated(folder, seed, faults, num_workers=2, grpo=grpo)
        check_contracts(simulation)
        happened += len(simulation.happened)
    assert happened > 100, "the faults came too late"


@pytest.mark.parametrize(("bound", "look_ahead"), [(0, 1), (1, 1), (1, 5), (2, 1), (2, 9), (4, 1), (4, 17)])
def test_over_500_groups_with_drops_and_updates_in_flight_none_is_staler_than_the_bound(
    tmp_path, bound, look_ahead
):
    grpo = {"num_steps": 63, "groups_per_step": 8, "max_staleness": bound, "look_ahead": look_ahead}
    simulation = simulated(tmp_path, bound, [], num_workers=4, flat_every=5, grpo=grpo)
    lags = [staleness(entry) for entry in simulation.disk.checkpoints[-1]["trained"]]
    assert len(lags) == 504
    assert max(lags) <= bound
    assert max(lags) >= bound / 2, "nothing ran ahead"
    assert simulation.ledger.metrics()["ledger/dropped/no_reward_spread"] > 50

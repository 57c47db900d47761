"""The number of rollout workers follows what idles, slowly, and a number given by hand at once."""

import pytest

from rl_empathy.errors import RunDirectoryError
from rl_empathy.orchestration.scaling import BY_HAND, Scaler, ask_by_hand
from tests.simulation import Simulation
from tests.unit.orchestration.test_faults import check_contracts, random_faults
from tests.virtual_clock import run_virtually


def scaler(tmp_path, minimum=1, maximum=4):
    return Scaler(minimum, maximum, tmp_path / BY_HAND)


def decisions(scaler, workers, trainer_waits, rollout_idle, steps):
    return [
        scaler.decide(workers, trainer_waits=trainer_waits, rollout_idle=rollout_idle) for _ in range(steps)
    ]


def test_a_worker_comes_after_three_steps_in_which_the_trainer_waited(tmp_path):
    first, second, third, fourth = decisions(scaler(tmp_path), 2, 0.5, 0.0, 4)
    assert (first, second, fourth) == (None, None, None)
    assert third is not None
    assert third.workers == 3
    assert third.reason == "the trainer waits for groups for 50% of a step"


def test_none_comes_while_those_there_idle_or_when_there_are_as_many_as_may_be(tmp_path):
    assert decisions(scaler(tmp_path), 2, 0.5, 0.6, 9) == [None] * 9
    assert decisions(scaler(tmp_path), 4, 0.5, 0.0, 9) == [None] * 9


def test_one_goes_when_the_others_can_do_its_work(tmp_path):
    decided = decisions(scaler(tmp_path), 4, 0.0, 0.5, 3)  # 4 * 0.5 / 3 = 0.67 busy
    assert decided[:2] == [None, None]
    assert decided[2] == (3, "the rollout workers idle for 50% of a step")
    assert decisions(scaler(tmp_path), 4, 0.0, 0.3, 9) == [None] * 9  # 4 * 0.7 / 3 = 0.93 busy
    assert decisions(scaler(tmp_path), 1, 0.0, 0.9, 9) == [None] * 9  # never below the minimum


def test_a_number_given_by_hand_wins_until_it_is_taken_back(tmp_path):
    (tmp_path / "config.yaml").touch()
    looking = scaler(tmp_path)
    ask_by_hand(tmp_path, 6)
    assert decisions(looking, 2, 0.0, 0.0, 1) == [(6, "asked for by hand")]
    assert decisions(looking, 6, 0.5, 0.0, 5) == [None] * 5
    ask_by_hand(tmp_path, None)
    assert decisions(looking, 2, 0.5, 0.0, 3)[2].workers == 3


def test_when_a_number_below_the_minimum_is_taken_back_the_minimum_comes_back(tmp_path):
    (tmp_path / "config.yaml").touch()
    looking = Scaler(3, 4, tmp_path / BY_HAND)
    ask_by_hand(tmp_path, 1)
    assert decisions(looking, 3, 0.0, 0.0, 1) == [(1, "asked for by hand")]
    ask_by_hand(tmp_path, None)
    reason = "cluster.rollout_workers.min, since no number is asked for by hand"
    assert decisions(looking, 1, 0.0, 0.9, 1) == [(3, reason)]


def test_a_file_that_names_no_number_is_an_error_that_names_it(tmp_path):
    (tmp_path / BY_HAND).write_text('{"rollout_workers": "many"}')
    with pytest.raises(RunDirectoryError, match=BY_HAND):
        decisions(scaler(tmp_path), 2, 0.0, 0.0, 1)


def test_a_folder_that_is_no_run_cannot_be_scaled(tmp_path):
    with pytest.raises(RunDirectoryError, match="no run directory"):
        ask_by_hand(tmp_path, 2)


def scaled(folder, *, num_workers, maximum, update_s, faults=()):
    simulation = Simulation(
        seed=5,
        folder=folder,
        num_workers=num_workers,
        maximum=maximum,
        update_s=update_s,
        grpo={"num_steps": 40, "max_staleness": 2, "checkpoint_every": 10},
    )
    run_virtually(simulation.run(list(faults)))
    check_contracts(simulation)
    return [text for text in simulation.told if "rollout workers: " in text]


def test_a_run_whose_trainer_waits_gets_workers_and_loses_no_prompt(tmp_path):
    told = scaled(tmp_path, num_workers=1, maximum=2, update_s=0.1)
    assert [text.split(" rollout")[0] for text in told] == ["1 -> 2"]


def test_a_run_whose_workers_wait_gives_them_back_and_loses_no_prompt(tmp_path):
    told = scaled(tmp_path, num_workers=3, maximum=3, update_s=60.0)
    assert [text.split(" rollout")[0] for text in told] == ["3 -> 2", "2 -> 1"]


@pytest.mark.parametrize("seed", range(20))
def test_workers_may_die_while_others_come_and_go(tmp_path, seed):
    faults = random_faults(seed, count=4, num_workers=3, until_s=200.0)
    scaled(tmp_path, num_workers=2, maximum=4, update_s=0.1 if seed % 2 else 30.0, faults=faults)

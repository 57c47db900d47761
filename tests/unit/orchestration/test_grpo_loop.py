"""The real loop, buffer and ledger on plain objects: no Ray, no model."""

import asyncio
import json
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_empathy.config.sections import GRPOConfig
from rl_empathy.data.prompts import PromptStream
from rl_empathy.errors import RoleDiedError, Stopped, TrainerLostError, TrainingError
from rl_empathy.observability.ledger import Ledger
from rl_empathy.observability.metrics import MetricsLog
from rl_empathy.orchestration.fleet import GroupHandle, ShuffledRewards
from rl_empathy.orchestration.group_buffer import GroupBuffer
from rl_empathy.orchestration.grpo import run_grpo, take_up
from rl_empathy.orchestration.steps import Checkpoints
from rl_empathy.orchestration.stop import StopSignal
from rl_empathy.types import GroupHeader, GroupRewards, Occurrence, PolicyVersion, Resumed
from tests.fakes import (
    AlternatingRewards,
    DyingWorkers,
    ForgettingWorkers,
    PoisonedRewards,
    RandomlySlowWorkers,
    RecordingTrainer,
    SlowlyLoadingWorkers,
    SlowRewards,
    StuckWorkers,
    make_fleet,
    make_group,
    make_prompt,
    make_rewards,
    make_row,
)

NUM_ROWS = 13


def run_loop(
    folder,
    fleet,
    *,
    stop_after_s=None,
    prompts=None,
    ledger=None,
    finished=(),
    show=lambda text: None,
    **grpo,
):
    config = GRPOConfig(
        **{"num_steps": 8, "groups_per_step": 3, "group_size": 2, "checkpoint_every": 4, **grpo}
    )
    prompts = prompts or PromptStream([(make_row(i), [1, 2, 3]) for i in range(NUM_ROWS)], seed=0)
    ledger = ledger or Ledger(folder / "ledger.jsonl")

    async def go():
        stop = StopSignal()
        if stop_after_s is not None:
            asyncio.get_running_loop().call_later(stop_after_s, stop.set)
        log = MetricsLog(folder / "metrics.jsonl")
        await asyncio.wait_for(
            run_grpo(
                config,
                fleet,
                prompts,
                ledger,
                log,
                stop=stop,
                finished=[*map(fleet.adopt, finished)],
                show=show,
            ),
            20,
        )

    asyncio.run(go())
    return ledger


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("max_staleness", [0, 1, 2, 4])
def test_no_group_is_staler_than_the_bound_and_zero_is_on_policy(tmp_path, max_staleness):
    fleet = make_fleet(workers=RandomlySlowWorkers(seed=max_staleness))
    run_loop(tmp_path, fleet, max_staleness=max_staleness, num_steps=30)
    assert max(fleet.trainer.staleness) <= max_staleness
    assert max_staleness < 2 or max(fleet.trainer.staleness) > 0, "nothing ran ahead"


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), max_staleness=st.integers(0, 3), flat_every=st.integers(0, 4))
def test_every_prompt_is_trained_or_dropped_once_in_the_order_of_start(
    tmp_path_factory, seed, max_staleness, flat_every
):
    folder = tmp_path_factory.mktemp("run")
    rewards = AlternatingRewards(flat_every=0 if flat_every == 1 else flat_every)
    fleet = make_fleet(workers=RandomlySlowWorkers(seed=seed, slowest_s=0.001), rewards=rewards)
    ledger = run_loop(folder, fleet, max_staleness=max_staleness)
    trained = [occurrence for step in fleet.trainer.trained for occurrence in step]
    assert trained == sorted(set(trained))
    assert len(trained) == 8 * 3
    ended = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    assert len({(entry["epoch"], entry["index"]) for entry in ended}) == len(ended)
    assert ledger.metrics()["ledger/trained"] == 24
    assert ledger.metrics()["ledger/duplicates"] == 0


def test_groups_without_spread_are_dropped_by_name_and_counted(tmp_path):
    fleet = make_fleet(rewards=AlternatingRewards(flat_every=3))
    run_loop(tmp_path, fleet)
    last = lines(tmp_path)[-1]
    assert last["ledger/dropped/no_reward_spread"] > 0
    assert all(occurrence.index % 3 for step in fleet.trainer.trained for occurrence in step)


def test_they_are_trained_when_the_run_file_says_all(tmp_path):
    fleet = make_fleet(rewards=AlternatingRewards(flat_every=3))
    run_loop(tmp_path, fleet, keep_groups="all")
    assert any(occurrence.index % 3 == 0 for step in fleet.trainer.trained for occurrence in step)


class OpposedRewards:
    """Two terms that cancel each other, so that the totals are equal; every third prompt's terms are flat as well."""

    def __init__(self, weight=1.0):
        self._weight = weight

    async def score(self, group):
        size = len(group.header.completion_tokens)
        up = tuple(float(i) if group.header.occurrence.index % 3 else 0.0 for i in range(size))
        terms = {"format": up, "answer": tuple(1 - score for score in up)}
        return make_rewards(*[1.0] * size, terms=terms, weight=self._weight)


def test_gdpo_drops_a_group_only_when_all_its_terms_lack_spread(tmp_path):
    fleet = make_fleet(rewards=OpposedRewards())
    run_loop(tmp_path, fleet, advantage="gdpo")
    trained = {occurrence.index % 3 for step in fleet.trainer.trained for occurrence in step}
    assert trained == {1, 2}
    assert lines(tmp_path)[-1]["ledger/dropped/no_reward_spread"] > 0


def test_a_term_of_weight_zero_is_no_spread_for_gdpo(tmp_path):
    with pytest.raises(ExceptionGroup) as caught:
        run_loop(tmp_path, make_fleet(rewards=OpposedRewards(weight=0.0)), advantage="gdpo")
    assert caught.group_contains(TrainingError, match="no_reward_spread")


def test_the_shuffled_control_permutes_terms_and_totals_together():
    class Rewards:
        async def score(self, group):
            return replace(
                make_rewards(*(2.0 * i for i in range(8))),
                terms={"format": tuple(float(i) for i in range(8))},
            )

    group = make_fleet().adopt(make_group(size=8))
    shuffled = asyncio.run(ShuffledRewards(Rewards(), seed=0).score(group))
    assert shuffled.totals == tuple(2 * score for score in shuffled.terms["format"])
    assert sorted(shuffled.totals) == [2.0 * i for i in range(8)] != list(shuffled.totals)


def test_a_step_that_gets_only_flat_groups_ends_the_run_and_says_why(tmp_path):
    with pytest.raises(ExceptionGroup) as caught:
        run_loop(tmp_path, make_fleet(rewards=AlternatingRewards(flat_every=1)), max_dropped_groups=20)
    assert caught.group_contains(TrainingError, match=r"step 1 dropped 20 groups .*'no_reward_spread': 20")


@pytest.mark.parametrize(("max_staleness", "beside"), [(0, False), (1, True)])
def test_workers_load_beside_the_next_update_where_its_groups_may_be_of_older_weights(
    tmp_path, max_staleness, beside
):
    trainer = RecordingTrainer()
    workers = SlowlyLoadingWorkers(trainer)
    run_loop(
        tmp_path, make_fleet(workers=workers, trainer=trainer), max_staleness=max_staleness, num_steps=20
    )
    assert (workers.loads_during_updates > 0) == beside
    assert max(trainer.staleness) == max_staleness


def test_weights_that_are_lost_before_they_are_loaded_mean_that_the_trainer_is(tmp_path):
    with pytest.raises(ExceptionGroup) as caught:
        run_loop(tmp_path, make_fleet(workers=ForgettingWorkers(number=2)))
    assert caught.group_contains(TrainerLostError, match="the object is lost")


def test_of_finished_groups_no_more_are_adopted_than_the_window_may_pass_by_within_the_bound(tmp_path):
    """As after --allow-config-change grpo.look_ahead=4: 9 finished groups, 6 slots. In a window of 4 the seventh may
    be the tenth that is trained, in step 4 of 3 groups each, three versions after it was written.
    """
    fleet = make_fleet()
    run_loop(
        tmp_path, fleet, prompts=after(9), finished=groups(9), max_staleness=2, num_steps=4, look_ahead=4
    )
    assert fleet.rollout_workers.sampled[:3] == [Occurrence(0, i) for i in (6, 7, 8)]
    assert max(fleet.trainer.staleness) <= 2


def test_adopted_groups_that_would_be_too_stale_are_sampled_again(tmp_path, caplog):
    """As after --allow-config-change grpo.max_staleness=0: only the first step may train what version 0 wrote."""
    fleet = make_fleet()
    run_loop(tmp_path, fleet, prompts=after(9), finished=groups(9), max_staleness=0, num_steps=4)
    assert fleet.rollout_workers.sampled[:6] == [Occurrence(0, i) for i in range(3, 9)]
    assert (
        "6 groups of the checkpoint would be trained too late and are sampled again: 2 tokens" in caplog.text
    )
    assert max(fleet.trainer.staleness) == 0
    assert sorted(o for step in fleet.trainer.trained for o in step) == [Occurrence(0, i) for i in range(12)]


def after(count):
    rows = [(make_row(i), [1, 2, 3]) for i in range(NUM_ROWS)]
    return PromptStream(rows, seed=0, cursor=Occurrence(0, count))


def groups(count):
    return [make_group(make_prompt(i)) for i in range(count)]


def test_one_failure_ends_the_run_with_its_own_error(tmp_path):
    fleet = make_fleet(workers=DyingWorkers(dies_at=9, error=RoleDiedError("rollout_worker_0 died")))
    with pytest.raises(ExceptionGroup) as caught:
        run_loop(tmp_path, fleet)
    assert caught.group_contains(RoleDiedError, match="rollout_worker_0 died")


def test_a_stop_saves_the_last_whole_step_and_what_was_finished(tmp_path):
    fleet = make_fleet(trainer=RecordingTrainer(update_s=0.02))
    with pytest.raises(ExceptionGroup) as caught:
        run_loop(tmp_path, fleet, stop_after_s=0.1, num_steps=1000, checkpoint_every=1000)
    assert caught.group_contains(Stopped, match="stopped after step")
    step, driver, finished = fleet.trainer.checkpoints[-1]
    assert step == len(fleet.trainer.trained) == lines(tmp_path)[-1]["step"]
    kept = {group.prompt.occurrence for group in finished}
    opened = {Occurrence(*o) for o in driver["opened"]}
    assert not kept & opened
    assert len(kept | opened) <= 6  # no more than the slots


@pytest.mark.parametrize("after_s", [0.0, 0.1])
def test_a_stop_soon_after_a_resume_keeps_the_groups_that_the_checkpoint_had(tmp_path, after_s):
    """Nine of them; the scores of none are there again when the stop comes."""
    fleet = make_fleet(rewards=SlowRewards(seconds=0.3))
    with pytest.raises(ExceptionGroup):
        run_loop(tmp_path, fleet, stop_after_s=after_s, prompts=after(9), finished=groups(9), max_staleness=2)
    _, driver, finished = fleet.trainer.checkpoints[-1]
    assert [group.prompt.occurrence.index for group in finished] == list(range(9))
    assert driver["opened"] == []


def test_a_stop_is_heard_while_the_workers_do_not_take_the_weights(tmp_path):
    fleet = make_fleet(workers=StuckWorkers(number=3))
    with pytest.raises(ExceptionGroup) as caught:
        run_loop(tmp_path, fleet, stop_after_s=0.5, num_steps=1000, max_staleness=0, checkpoint_every=1000)
    assert caught.group_contains(Stopped, match="stopped after step 3 of 1000")
    assert fleet.trainer.checkpoints[-1][0] == 3


def test_a_group_that_its_scorers_are_lost_of_is_dropped_by_name(tmp_path):
    fleet = make_fleet(rewards=PoisonedRewards(index=4))
    ledger = run_loop(tmp_path, fleet)
    counts = ledger.metrics()
    assert counts["ledger/dropped/scorer_lost"] == 2, "index 4 of two epochs"
    assert counts["ledger/trained"] == 8 * 3
    assert Occurrence(0, 4) not in [o for step in fleet.trainer.trained for o in step]


def test_a_resume_goes_on_where_the_checkpoint_stood_and_loses_no_prompt(tmp_path):
    first = make_fleet(trainer=RecordingTrainer(update_s=0.01))
    with pytest.raises(ExceptionGroup):
        run_loop(tmp_path, first, stop_after_s=0.08, num_steps=40, checkpoint_every=1000)
    step, driver, finished = first.trainer.checkpoints[-1]
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.resume(driver["ledger"])
    prompts = PromptStream(
        [(make_row(i), [1, 2, 3]) for i in range(NUM_ROWS)],
        seed=0,
        cursor=Occurrence(*driver["cursor"]),
        opened=[Occurrence(*o) for o in driver["opened"]],
    )
    second = make_fleet(trainer=RecordingTrainer(number=step))
    ledger = run_loop(tmp_path, second, prompts=prompts, ledger=ledger, finished=finished, num_steps=40)
    trained = [o for fleet in (first, second) for group in fleet.trainer.trained for o in group]
    assert len(trained) == len(set(trained)) == 40 * 3
    assert sorted(trained)[: 3 * 13] == [Occurrence(e, i) for e in range(3) for i in range(13)]
    assert ledger.metrics()["ledger/duplicates"] == 0


def test_a_run_that_goes_on_with_fewer_rows_drops_by_name_what_is_gone_and_tells_how_many(tmp_path):
    """A checkpoint of 9 rows, where 5 are left: of epoch 1 all but three opened and one finished group ended."""
    ended = [*((0, i) for i in range(9)), *((1, i) for i in (0, 1, 3, 4, 5))]
    state = {
        "cursor": [1, 9],
        "opened": [[1, 2], [1, 6], [1, 8]],
        "ledger": [{"occurrence": list(o), "state": "trained", "step": 3} for o in ended],
    }
    group = make_group(make_prompt(7, epoch=1), version=PolicyVersion(1, 3))
    prompts = PromptStream([(make_row(i), [1, 2, 3]) for i in range(5)], seed=0)
    ledger, log, told = Ledger(tmp_path / "ledger.jsonl"), MetricsLog(tmp_path / "metrics.jsonl"), []
    resumed = Resumed(driver=state, finished=(group,))
    finished = take_up(resumed, 3, prompts, ledger, log, tell=told.append)
    fleet = make_fleet(trainer=RecordingTrainer(number=3))
    run_loop(tmp_path, fleet, prompts=prompts, ledger=ledger, finished=finished, num_steps=5)
    assert told == [
        "prompts under way that are dropped (row_gone in ledger.jsonl), since their rows are gone: 2"
    ]
    assert fleet.trainer.trained == [((1, 7), (1, 2), (2, 0)), ((2, 1), (2, 2), (2, 3))]
    assert lines(tmp_path)[-1]["ledger/dropped/row_gone"] == 2
    gone = [line for line in (tmp_path / "ledger.jsonl").read_text().splitlines() if "row_gone" in line]
    assert [json.loads(line) for line in gone] == [
        {"epoch": 1, "index": i, "state": "dropped", "step": 4, "reason": "row_gone"} for i in (6, 8)
    ]


def test_adopted_groups_that_are_too_stale_and_have_no_row_any_more_are_dropped_by_name(tmp_path, caplog):
    """As after --allow-config-change with grpo.max_staleness=0 and 5 of 9 rows."""
    fleet, prompts = make_fleet(), PromptStream([(make_row(i), [1, 2, 3]) for i in range(5)], seed=0)
    prompts.go_to(Occurrence(0, 9), [])
    ledger = run_loop(tmp_path, fleet, prompts=prompts, finished=groups(9), max_staleness=0, num_steps=2)
    assert "dropped instead, since their rows are gone (row_gone in ledger.jsonl): 4" in caplog.text
    assert ledger.metrics()["ledger/dropped/row_gone"] == 4
    assert fleet.trainer.trained == [((0, 0), (0, 1), (0, 2)), ((0, 3), (0, 4), (1, 0))]


def test_a_trainer_idles_whenever_it_does_not_work_whatever_it_waits_for(tmp_path):
    run_loop(tmp_path, make_fleet(trainer=RecordingTrainer(update_s=0.01)))
    seen = [(line["idle/trainer_fraction"], line["time/step_s"]) for line in lines(tmp_path)]
    assert len(seen) == 8
    assert [idle for idle, _ in seen] == pytest.approx([1 - 0.01 / step_s for _, step_s in seen])


def test_groups_that_were_dropped_were_generated_as_well(tmp_path):
    fleet = make_fleet(rewards=AlternatingRewards(flat_every=3))
    counts = run_loop(tmp_path, fleet).metrics()
    assert counts["ledger/dropped/no_reward_spread"] > 3
    groups = counts["ledger/trained"] + counts["ledger/dropped/no_reward_spread"]
    tokens = sum(line["tokens/generated_per_s"] * line["time/step_s"] for line in lines(tmp_path))
    each = sum(len(c.token_ids) for c in make_group(make_prompt(0), size=2).completions)
    assert tokens == pytest.approx(groups * each)


def rewarded(*totals: float | None) -> GroupHandle:
    header = GroupHeader.of(make_group(size=len(totals)), worker="", sample_s=None)
    return GroupHandle(header=header, payload=None).scored(make_rewards(*totals), None)


def test_a_step_that_is_copied_twice_keeps_its_score(tmp_path):
    """As by a stop that is heard right after a checkpoint."""
    ledger = Ledger(tmp_path / "ledger.jsonl")
    fleet, prompts = make_fleet(), PromptStream([(make_row(0), [1, 2, 3])], seed=0)
    checkpoints = Checkpoints(
        fleet,
        prompts,
        ledger,
        GroupBuffer(capacity=1, look_ahead=1, max_dropped=1, ledger=ledger, in_rounds=False),
    )

    async def go():
        await checkpoints.copy()
        checkpoints.seen([rewarded(0.0, 2.0)])
        checkpoints.seen([rewarded(1.0), rewarded(3.0, None)])
        await checkpoints.copy()
        await checkpoints.copy()
        checkpoints.seen([rewarded(None, None)])
        await checkpoints.copy()

    asyncio.run(go())
    assert fleet.trainer.scores == [None, 1.5, 1.5, None]


def test_the_metrics_have_the_names_of_the_design(tmp_path):
    run_loop(tmp_path, make_fleet())
    names = set(lines(tmp_path)[-1])
    assert {
        "stage", "step", "time", "reward/mean", "reward/std", "reward/format/mean", "reward/zero_spread_fraction",
        "schema/valid_fraction", "rollout/completion_length_tokens", "rollout/truncated_fraction", "time/step_s",
        "time/wait_for_groups_s", "time/checkpoint_s",
        "time/wait_for_publish_s", "time/publish_s", "time/pause_s", "idle/trainer_fraction",
        "idle/rollout_fraction",
        "tokens/generated_per_s", "fleet/rollout_workers_ready", "ledger/trained", "ledger/duplicates",
        "ledger/retried", "time/sample_mean_s", "time/sample_max_s",
    } <= names  # fmt: skip


def test_one_can_see_what_a_step_is_at(tmp_path, monkeypatch):
    monkeypatch.setattr("rl_empathy.orchestration.rollouts.SHOW_S", 0.001)
    seen: list[str] = []
    fleet = make_fleet(trainer=RecordingTrainer(update_s=0.01), rewards=AlternatingRewards(flat_every=3))
    run_loop(tmp_path, fleet, show=seen.append)
    assert any(re.fullmatch(r"groups of step 1: [012] of 3 taken.*, \d under way.*", text) for text in seen)
    assert any(text.endswith("1 dropped (1 no_reward_spread)") for text in seen)
    assert "the update of step 2" in seen


class FormlessRewards:
    """No reply has the span that is read, so all score the same."""

    async def score(self, group) -> GroupRewards:
        rewards = make_rewards(*[0.0] * len(group.header.completion_tokens))
        return replace(rewards, errors=tuple(("missing", "text_outside") for _ in rewards.totals))


def test_groups_that_teach_nothing_since_no_reply_keeps_the_form_are_told_of_as_that(tmp_path):
    with pytest.raises(ExceptionGroup) as caught:
        run_loop(tmp_path, make_fleet(rewards=FormlessRewards()), max_dropped_groups=4)
    told = r"None of their 8 replies keeps the form of the schema \(missing 8, text_outside 8\).*data\.missing_trace"
    assert caught.group_contains(TrainingError, match=told)

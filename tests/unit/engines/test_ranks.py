"""Two processes with real DeepSpeed over gloo train as one does."""

import multiprocessing

import psutil
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from rl_empathy.engines.embedding import SentenceEncoder
from rl_empathy.engines.language_models import own_logprobs, probe_samples
from rl_empathy.engines.microbatches import fed_tokens, micro_batches_of_rank, share_out
from rl_empathy.engines.policy_model import PolicyModel
from rl_empathy.engines.ranks import open_store
from rl_empathy.engines.shared_prompt import Sample
from rl_empathy.engines.small_encoder import make_encoder
from tests.architectures import make_architecture
from tests.tiny_models import make_tiny_model, make_tiny_tokenizer
from tests.unit.engines.rank_process import (
    ENCODER_TEXTS,
    flat,
    go_on,
    run_and_export,
    run_case,
    run_encoder,
    run_fine_tuning,
    run_rank,
)

LOSSES = ("infonce", "triplet")
LAYOUTS = ("shared_prompt", "packed", "one_sequence")
shapes = st.lists(
    st.tuples(st.integers(1, 9), st.lists(st.integers(1, 7), min_size=1, max_size=5)), max_size=5
)


def make_samples(shapes):
    return [Sample(list(range(p)), [list(range(n)) for n in lengths]) for p, lengths in shapes]


def completions(samples):
    return [(s.prompt, c) for s in samples for c in s.completions]


@given(shapes=shapes, ranks=st.integers(1, 4))
def test_shares_joined_are_what_was_shared_out(shapes, ranks):
    samples = make_samples(shapes)
    for layout in LAYOUTS:
        shares = share_out(samples, ranks=ranks, layout=layout)
        assert len(shares) == ranks
        assert [c for share in shares for c in completions(share)] == completions(samples)


def test_shares_are_balanced_by_tokens_not_by_groups():
    long, short = Sample([1] * 10, [[2] * 100] * 4), Sample([1] * 10, [[2] * 20] * 4)
    shares = share_out([long, short, short], ranks=2, layout="shared_prompt")
    tokens = [sum(fed_tokens(sample, "shared_prompt") for sample in share) for share in shares]
    assert tokens == [307, 281]  # 10 + 3 * 99, and 10 + 99 + 2 * (10 + 4 * 19): the long group is divided


@given(shapes=shapes, ranks=st.integers(1, 4), max_tokens=st.integers(1, 60))
def test_every_rank_has_as_many_micro_batches_and_knows_where_its_tokens_stand(shapes, ranks, max_tokens):
    samples = make_samples(shapes)
    counts, at = set(), 0
    for rank in range(ranks):
        batches, start = micro_batches_of_rank(
            samples, rank=rank, ranks=ranks, max_tokens=max_tokens, layout="packed"
        )
        assert start == at
        counts.add(len(batches))
        at += sum(len(c) for batch in batches for _, c in completions(batch))
    assert len(counts) == 1
    assert at == sum(len(c) for _, c in completions(samples))


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "::1"])
def test_the_store_of_the_ranks_listens_on_the_address_given_and_nowhere_else(address: str) -> None:
    store = open_store(address, ranks=2)
    listening = [s for s in psutil.Process().net_connections() if s.status == psutil.CONN_LISTEN]
    assert [s.laddr.ip for s in listening if s.laddr.port == store.port] == [address]
    client = dist.TCPStore(address, store.port, 2, is_master=False, wait_for_workers=False)
    client.set("from rank 1", "hello")
    assert store.get("from rank 1") == b"hello"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(make_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def granite(tmp_path_factory):
    """A model that is computed by its own forward pass, one sequence a row, and whose head is its own."""
    path = make_architecture("Granite, wide", tmp_path_factory.mktemp("granite"))
    make_tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder")
    texts = [*ENCODER_TEXTS] * 3
    SentenceEncoder(*make_encoder(texts, seed=0, max_tokens=64, width=32, layers=2, vocabulary=400)).save(
        path
    )
    return str(path)


@pytest.fixture(scope="module")
def alone(folder):
    return run_case(folder, 0)


@pytest.fixture(scope="module")
def alone_in_stages(folder, encoder, tmp_path_factory):
    """What one process does in stages sft and reward_modeling."""
    return {
        "fine-tuning": run_fine_tuning("", 0, folder, str(tmp_path_factory.mktemp("alone") / "sft")),
        **{loss: run_encoder("", 0, encoder, loss) for loss in LOSSES},
    }


@pytest.fixture(scope="module")
def together(folder, alone, alone_in_stages, granite, encoder, tmp_path_factory):
    """By ZeRO stage: what two ranks did, and how they went on from what one rank saved."""
    results = tmp_path_factory.mktemp("results") / "result"
    store = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
    work = [piece for stage in (0, 2, 3) for piece in ((run_case, stage), (go_on, stage, alone["saved"]))]
    work.append((run_and_export, 3, str(granite), str(granite.with_name("exported"))))
    for stage in (0, 2, 3):
        tuned = str(results.with_name(f"fine_tuned_{stage}"))
        work.append((run_fine_tuning, stage, folder, tuned))
        work += [(run_encoder, stage, encoder, loss) for loss in LOSSES]
        work.append((run_encoder, stage, encoder, "infonce", alone_in_stages["infonce"]["saved"]))
    start = multiprocessing.get_context("spawn").Process
    processes = [
        start(target=run_rank, args=(rank, 2, store.port, folder, work, results)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=500)
    assert [process.exitcode for process in processes] == [0, 0]
    loaded = [
        torch.load(results.with_name("result" + "+" * number), weights_only=False)
        for number in range(len(work))
    ]
    stages = {stage: loaded[7 + 4 * i : 11 + 4 * i] for i, stage in enumerate((0, 2, 3))}
    return {0: loaded[0:2], 2: loaded[2:4], 3: loaded[4:6], "granite": loaded[6], "stages": stages}


def start_weights(folder):
    model = PolicyModel(folder, dtype="float32", layout="packed").language_model
    return flat(dict(model.named_parameters()))


def movement_apart(one, other, start):
    """The distance of two trainings' ends, as a share of the way that the first one went."""
    return float((one - other).norm() / (one - start).norm())


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_two_ranks_train_as_one_does(folder, alone, together, stage):
    case, _ = together[stage]
    for name in ("policy/loss", "policy/grad_norm", "policy/entropy", "policy/importance_ratio_max"):
        assert case["metrics"][0][name] == pytest.approx(alone["metrics"][0][name], rel=1e-5, abs=1e-7)
        assert case["metrics"][4][name] == pytest.approx(alone["metrics"][4][name], rel=1e-3, abs=1e-5)
    assert movement_apart(alone["weights"], case["weights"], start_weights(folder)) < 1e-5
    assert case["published"] == alone["published"]
    assert torch.allclose(case["logprobs"], alone["logprobs"], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_gradient_that_is_not_finite_is_thrown_away_on_every_rank(together, stage):
    case, _ = together[stage]
    assert case["spoilt"].skipped
    assert torch.equal(case["after_spoilt"], case["weights"])
    assert not case[
        "tiny"
    ].skipped  # one completion for two ranks: the other one computes a row of weight zero


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_two_ranks_go_on_from_the_checkpoint_of_one(folder, alone, together, stage):
    _, gone_on = together[stage]
    assert gone_on["metrics"][1]["policy/loss"] == pytest.approx(
        alone["metrics"][4]["policy/loss"], rel=1e-3, abs=1e-5
    )
    assert movement_apart(alone["weights"], gone_on["weights"], start_weights(folder)) < 1e-5


@pytest.mark.slow
def test_one_rank_goes_on_from_the_checkpoint_of_two(folder, alone, together):
    case, _ = together[3]
    gone_on = go_on(folder, 0, case["saved"])
    assert movement_apart(alone["weights"], gone_on["weights"], start_weights(folder)) < 1e-5


@pytest.mark.slow
def test_sharded_weights_are_trained_one_sequence_a_row_and_exported_as_they_are(granite, together):
    case = together["granite"]
    alone = run_and_export("", 0, str(granite), str(granite.with_name("alone")))
    assert case["layout"] == alone["layout"] == "one_sequence"
    for ours, theirs in zip(case["metrics"], alone["metrics"], strict=True):
        assert ours["policy/loss"] == pytest.approx(theirs["policy/loss"], rel=1e-3, abs=1e-5)
    exported = AutoModelForCausalLM.from_pretrained(granite.with_name("exported"))
    with torch.no_grad():
        wanted = own_logprobs(exported, probe_samples(exported.config))
    torch.testing.assert_close(case["logprobs"], wanted, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_two_ranks_fine_tune_as_one_does_over_a_stop(alone_in_stages, together, stage):
    theirs, ours = alone_in_stages["fine-tuning"]["reports"], together["stages"][stage][0]["reports"]
    assert ours.keys() == theirs.keys() == {0, 1, 2, 3, 4}
    for step in theirs:
        assert ours[step] == pytest.approx(theirs[step], rel=1e-5 if step < 2 else 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_two_ranks_train_an_encoder_as_one_does(alone_in_stages, encoder, together, stage, loss):
    """The negatives of a triplet are those of the whole batch; of one triplet, one rank has nothing."""
    theirs, ours = alone_in_stages[loss], together["stages"][stage][1 + LOSSES.index(loss)]
    for step in range(3):
        for name in ("loss", "grad_norm", "learning_rate"):
            wanted = getattr(theirs["done"][step], name)
            assert getattr(ours["done"][step], name) == pytest.approx(wanted, rel=1e-5 if step == 0 else 1e-3)
    start = flat(dict(SentenceEncoder.load(encoder).encoder.named_parameters()))
    assert movement_apart(theirs["weights"], ours["weights"], start) < 1e-4
    torch.testing.assert_close(ours["vectors"], theirs["vectors"], atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_two_ranks_go_on_with_an_encoder_of_one(alone_in_stages, together, stage):
    theirs, ours = alone_in_stages["infonce"], together["stages"][stage][3]
    assert ours["done"][0].loss == pytest.approx(theirs["done"][2].loss, rel=1e-5)
    assert torch.allclose(ours["weights"], theirs["weights"], atol=1e-6)

"""The embedding reward model, with an encoder small enough to be made in a moment."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from rl_empathy.algorithms.copying import without_copied_runs
from rl_empathy.algorithms.losses import infonce_loss
from rl_empathy.config.sections import OptimizerConfig, RewardModelingConfig
from rl_empathy.engines import embedding
from rl_empathy.engines.checkpoints import latest_checkpoint
from rl_empathy.engines.echo_earnings import Probe
from rl_empathy.engines.embedding import (
    Description,
    RewardModel,
    SentenceEncoder,
    batches_of_like_length,
    packaged_encoder,
    resolve_encoder,
    score_pairs,
)
from rl_empathy.engines.encoder_training import EncoderTraining
from rl_empathy.engines.reward_training import (
    MAX_COPIED_LIMIT,
    RewardTraining,
    copied_limit,
    separation_metrics,
)
from rl_empathy.engines.small_encoder import make_encoder, semantic_embeddings, train_tokenizer
from rl_empathy.errors import ModelError, TrainingError

TOPICS = ("work", "grief", "exam", "money", "sleep", "family", "moving", "illness")
ANSWERS = ("office", "loss", "test", "wage", "rest", "kin", "home", "doctor")
TEXTS = [f"{topic} is hard for me {i}. I hear how {topic} hurts you." for topic in TOPICS for i in range(4)]
TEXTS += [f"I hear how {answer} hurts you {i}" for answer in ANSWERS for i in range(4)]


@dataclass(frozen=True)
class PlainTriplet:
    question: str
    positive: str
    negative: str
    kind: str

    def is_right(self, answer: str) -> bool:
        return answer == self.positive


def make_triplets(shift: int) -> list[PlainTriplet]:
    return [
        PlainTriplet(
            f"{topic} is hard for me {shift}",
            f"I hear how {ANSWERS[i]} hurts you",
            f"I hear how {ANSWERS[(i + 1 + shift % 7) % 8]} hurts you",
            "easy",
        )
        for i, topic in enumerate(TOPICS)
    ]


def tiny_encoder(seed: int = 0) -> SentenceEncoder:
    return SentenceEncoder(*make_encoder(TEXTS, seed=seed, max_tokens=64, width=32, layers=1, vocabulary=400))


def make_training(
    num_steps: int = 4,
    *,
    learning_rate: float = 3e-3,
    draw: Callable[[int], Sequence[PlainTriplet]] = make_triplets,
    **keys: object,
) -> RewardTraining:
    config = RewardModelingConfig(
        num_steps=num_steps,
        checkpoint_every=2,
        evaluate_every=2,
        optimizer=OptimizerConfig(learning_rate=learning_rate, warmup_steps=2),
        **keys,  # type: ignore[arg-type]
    )
    return RewardTraining(
        EncoderTraining(tiny_encoder(), config),
        config,
        draw=draw,
        calibration=make_triplets(50),
        probes=[
            Probe(post=t.question, references=(t.positive,), echoes={"copy": t.question})
            for t in make_triplets(60)
        ],
        copied_limit=0.5,
    )


def ignore(step: int, metrics: dict[str, float], checkpoint: Path | None) -> None:
    del step, metrics, checkpoint


def make_description(**changes: object) -> Description:
    return replace(
        Description(
            kind="embedding",
            threshold=0.4,
            copied_limit=0.5,
            max_tokens=32,
            cut_fraction=0.0,
            loss="infonce",
            language="en",
            num_steps=0,
            metrics={},
            echoes={},
            settings={},
        ),
        **changes,
    )


def weights_of(training: RewardTraining) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in training.engine.encoder.parameters()])


def test_vectors_have_length_one_and_do_not_depend_on_their_batch() -> None:
    encoder = tiny_encoder()
    texts = ["grief", "a much longer text about grief and work", "grief"]
    together = encoder.encode(texts, max_tokens=32, batch=8)
    alone = torch.cat([encoder.encode([text], max_tokens=32) for text in texts])
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(together, alone)


def test_a_long_question_is_not_padded_together_with_short_answers() -> None:
    texts = ["a" * 60, "a" * 70, "a" * 80, "a" * 90, "a" * 300]
    sizes = [[len(text) for text in batch] for batch in batches_of_like_length(texts, most=16)]
    assert sizes == [[60, 70, 80], [90], [300]]
    assert [len(batch) for batch in batches_of_like_length(["a"] * 5, most=2)] == [2, 2, 1]


def test_pooling_is_the_mean_over_the_tokens_that_are_no_padding() -> None:
    encoder = tiny_encoder()
    ids = encoder.tokenizer("grief hurts", return_tensors="pt")
    with torch.no_grad():
        mean = encoder.encoder(**ids).last_hidden_state[0].mean(0)
        padded = encoder(["grief hurts", "grief hurts you and me and all the others"], max_tokens=64)[0]
    torch.testing.assert_close(padded, mean / mean.norm())


def test_texts_are_cut_at_max_tokens_and_the_share_of_cut_ones_is_known() -> None:
    encoder = tiny_encoder()
    long, beginning = "work " * 60, "work " * 20
    assert encoder.cut_fraction([long, "work"], max_tokens=8) == 0.5
    vectors = encoder.encode([long, beginning], max_tokens=4)
    torch.testing.assert_close(vectors[0], vectors[1])


def test_an_empty_text_has_a_zero_vector() -> None:
    vectors = tiny_encoder().encode(["grief", ""], max_tokens=8)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.tensor([1.0, 0.0]))


def test_the_name_of_a_special_token_in_a_text_is_text() -> None:
    encoder = tiny_encoder()
    assert len(encoder.tokenizer("<pad>")["input_ids"]) == 1
    assert encoder.cut_fraction(["<pad>"], max_tokens=1) == 1.0
    named, first = encoder.encode(["<pad>", "<"], max_tokens=1)
    torch.testing.assert_close(named, first)


def test_a_reward_model_is_the_same_after_saving_and_loading(tmp_path: Path) -> None:
    model = RewardModel(tiny_encoder(), make_description(metrics={"reward_model/roc_auc": 0.9}))
    model.save(tmp_path / "model")
    loaded = RewardModel.load(tmp_path / "model")
    answers = ["I hear you", "Buy a car", "I hear you"]
    assert loaded.scores("grief is hard", answers) == model.scores("grief is hard", answers)
    assert loaded.threshold == 0.4
    assert loaded.description == model.description
    assert not list((tmp_path / "model").glob("*.bin"))
    assert json.loads((tmp_path / "model" / "reward_model.json").read_text())["kind"] == "embedding"


def test_no_answers_have_no_scores() -> None:
    assert RewardModel(tiny_encoder(), make_description()).scores("grief", []) == []


def test_a_score_is_the_cosine_with_what_is_not_copied_times_the_share_of_own_words() -> None:
    encoder = tiny_encoder()
    question, answer = "work is hard for me", "work is hard for you : I hear how work hurts"
    vectors = encoder.encode(["question: " + question, "answer: : I hear how work hurts"], max_tokens=32)
    # of the letters beyond two of work, hard, for, hear, how, hurts, 2 + 2 + 1 of 11 are copied: (1 - 5/11) / (1 - 1/4)
    (score,) = RewardModel(encoder, make_description(copied_limit=0.25)).scores(question, [answer])
    assert score == pytest.approx((8 / 11) ** 2 * float(vectors[0] @ vectors[1]), abs=1e-6)


class MarkingEncoder(SentenceEncoder):
    """Keeps the texts that it is given."""

    seen: tuple[str, ...] = ()

    def encode(self, texts: Sequence[str], *, max_tokens: int, batch: int = 16) -> torch.Tensor:
        self.seen = tuple(texts)
        return super().encode(texts, max_tokens=max_tokens, batch=batch)


def test_question_and_answer_are_encoded_each_with_the_mark_of_its_side() -> None:
    """Without, an echo of the question would be the same text as the question."""
    encoder = MarkingEncoder(*make_encoder(TEXTS, seed=0, max_tokens=64, width=32, layers=1, vocabulary=400))
    score_pairs(encoder, [("grief", "money"), ("work", "sleep")], copied_limit=0.5, max_tokens=32)
    assert encoder.seen == ("question: grief", "question: work", "answer: money", "answer: sleep")


def test_an_answer_that_only_copies_has_no_score() -> None:
    question = "work is hard for me since the spring"
    copies = [question, "work is hard", '"work is hard for you"', "spring the since me for hard is work"]
    assert max(RewardModel(tiny_encoder(), make_description()).scores(question, copies)) <= 0


def test_copying_does_not_mend_a_score_below_zero() -> None:
    pairs = [("grief", "money wage office"), ("grief", "grief grief money")]
    plain = score_pairs(tiny_encoder(), pairs, copied_limit=0.99, max_tokens=32)
    strict = score_pairs(tiny_encoder(), pairs, copied_limit=0.0, max_tokens=32)
    assert (strict <= plain).all()


def test_the_limit_of_copying_is_what_one_reference_in_ten_exceeds() -> None:
    post = " ".join(f"post{i}" for i in range(10, 30))
    answers = [
        " ".join([f"post{i}" for i in range(10, 10 + copied)] + [f"text{i}" for i in range(10, 30 - copied)])
        for copied in range(21)
    ]  # 0, 0.05, …, 1
    assert copied_limit([(post, answer) for answer in answers[:19]]) == pytest.approx(0.81)
    assert copied_limit([(post, answer) for answer in answers[:11]]) == pytest.approx(0.45)
    assert copied_limit([(post, answer) for answer in answers[16:]]) == pytest.approx(MAX_COPIED_LIMIT)


def test_a_folder_without_a_reward_model_is_named(tmp_path: Path) -> None:
    tiny_encoder().save(tmp_path)
    with pytest.raises(ModelError, match="holds no reward model"):
        RewardModel.load(tmp_path)


def test_a_missing_encoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        SentenceEncoder.load(tmp_path / "nowhere")


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    encoder = tiny_encoder()
    encoder.save(tmp_path)
    torch.save(encoder.encoder.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors"):
        SentenceEncoder.load(tmp_path)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "PACKAGE", "no_such_package")
    with pytest.raises(ModelError, match=r"rl-empathy\[models\]"):
        packaged_encoder()


def test_auto_makes_the_same_chinese_encoder_from_the_same_seed_and_uses_it_again(tmp_path: Path) -> None:
    def resolve(name: str, seed: int) -> str:
        texts = ["我很难过，不知道怎么办。", "听起来你真的很累。"] * 4
        return resolve_encoder("auto", language="zh", texts=texts, seed=seed, folder=tmp_path / name)

    first = SentenceEncoder.load(resolve("one", 1)).encode(["我很累"], max_tokens=16)
    assert torch.equal(first, SentenceEncoder.load(resolve("two", 1)).encode(["我很累"], max_tokens=16))
    assert torch.equal(first, SentenceEncoder.load(resolve("one", 2)).encode(["我很累"], max_tokens=16))


@pytest.mark.parametrize("loss", ["infonce", "triplet"])
def test_training_raises_triplet_accuracy(tmp_path: Path, loss: str) -> None:
    training = make_training(40, loss=loss)
    before = training.evaluation["reward_model/triplet_accuracy"]
    assert training.run(ignore, folder=tmp_path)
    assert training.evaluation["reward_model/triplet_accuracy"] > max(before, 0.8)


def test_training_sees_of_an_answer_what_it_does_not_copy() -> None:
    copying = PlainTriplet(
        "work is hard for me", "work is hard for you : I hear how work hurts", "grief hurts", "easy"
    )
    training = make_training(draw=lambda step: [copying, *make_triplets(step)])
    seen, forward = list[str](), training.engine.encoder.forward
    training.engine.encoder.forward = lambda texts, **keys: (seen.extend(texts), forward(texts, **keys))[1]  # type: ignore[method-assign]
    training.update()
    assert "question: work is hard for me" in seen
    assert "answer: : I hear how work hurts" in seen
    assert not [text for text in seen if "hard for you" in text]


class AlwaysRightTriplet(PlainTriplet):
    """To whose question every answer is right."""

    def is_right(self, answer: str) -> bool:
        return True


def test_training_takes_no_right_answer_to_a_question_for_a_negative() -> None:
    training = make_training()
    plain = training.update()["reward_model/loss"]
    training = make_training(
        draw=lambda step: [
            AlwaysRightTriplet(t.question, t.positive, t.negative, t.kind) for t in make_triplets(step)
        ]
    )
    # what is left of each sum is the pair itself: -log 1
    assert training.update()["reward_model/loss"] == pytest.approx(0) != pytest.approx(plain)


def test_a_resumed_training_ends_with_the_weights_of_an_unbroken_one(tmp_path: Path) -> None:
    unbroken, stopped, resumed = make_training(), make_training(), make_training()
    unbroken.run(ignore, folder=tmp_path / "unbroken")
    assert not stopped.run(ignore, folder=tmp_path / "stopped", should_stop=lambda: stopped.step == 3)
    checkpoint = latest_checkpoint(tmp_path / "stopped")
    assert checkpoint is not None
    assert checkpoint.step == 3
    resumed.restore(checkpoint)
    assert resumed.run(ignore, folder=tmp_path / "stopped")
    assert torch.equal(weights_of(unbroken), weights_of(resumed))


def test_every_step_is_reported_once_and_checkpoints_by_their_folder(tmp_path: Path) -> None:
    seen: list[tuple[int, str | None]] = []
    make_training(5).run(
        lambda step, _, path: seen.append((step, path.name if path else None)), folder=tmp_path
    )
    assert seen == [
        (0, None),
        (1, None),
        (2, "step_000002"),
        (3, None),
        (4, "step_000004"),
        (5, "step_000005"),
    ]


def test_zero_steps_take_the_encoder_as_it_is(tmp_path: Path) -> None:
    training = make_training(0)
    before = weights_of(training)
    assert training.run(ignore, folder=tmp_path)
    assert torch.equal(weights_of(training), before)
    assert 0 <= training.evaluation["reward_model/roc_auc"] <= 1


def test_a_gradient_that_is_not_finite_leaves_the_weights_alone_and_three_end_the_run() -> None:
    training = make_training()
    with torch.no_grad():
        training.engine.encoder.encoder.embeddings.LayerNorm.weight[0] = float("nan")
    before = weights_of(training)
    training.update()
    training.update()
    assert torch.equal(weights_of(training).nan_to_num(), before.nan_to_num())
    with pytest.raises(TrainingError, match="3 steps in a row"):
        training.update()


def test_separation_of_scores_by_hand() -> None:
    # pairs (positive, negative) in order: (.5,.4) (.5,.1) (.3,.1) right, (.3,.4) wrong: 3/4
    metrics = separation_metrics(torch.tensor([0.5, 0.3]), torch.tensor([0.4, 0.1]))
    assert metrics["reward_model/roc_auc"] == 0.75
    assert metrics["reward_model/threshold"] == pytest.approx(0.35)
    assert (
        metrics["reward_model/false_accept_fraction"] == metrics["reward_model/false_reject_fraction"] == 0.5
    )


def test_metrics_name_the_accuracy_of_every_kind() -> None:
    kinds: Sequence[str] = [name for name in make_training().evaluation if "accuracy" in name]
    assert kinds == ["reward_model/triplet_accuracy", "reward_model/triplet_accuracy_easy"]


def test_a_new_encoder_already_finds_the_text_that_shares_rare_words() -> None:
    question, near, far = "grief is hard", "I hear how grief hurts you", "I hear how money hurts you"
    near_score, far_score = RewardModel(tiny_encoder(), make_description()).scores(question, [near, far])
    assert near_score > far_score + 0.1


def test_common_tokens_put_their_length_into_the_ignored_coordinates() -> None:
    # token 0 is in every text, so its rarity log((1 + 4) / (1 + 4)) is 0
    vectors = semantic_embeddings([[0, 1], [0, 2], [0, 3], [0, 1]], vocabulary=5, width=4, seed=0)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.full((5,), 2.0))
    torch.testing.assert_close(vectors[0], torch.tensor([2**0.5, -(2**0.5), 0, 0]))
    assert vectors[2, 2:].norm() > vectors[0, 2:].norm()


def test_a_new_encoder_gives_the_mean_of_its_tokens_semantic_vectors() -> None:
    # as if there were no layers: only their norms' own mean over the coordinates is gone
    encoder = tiny_encoder()
    ids = [encoder.tokenizer(text)["input_ids"] for text in TEXTS]
    vectors = semantic_embeddings(ids, len(encoder.tokenizer), 32, seed=0)
    vectors = (vectors - vectors.mean(-1, keepdim=True))[:, 2:]
    expected = torch.stack([torch.nn.functional.normalize(vectors[i].mean(0), dim=0) for i in ids])
    found = encoder.encode(TEXTS, max_tokens=64)
    torch.testing.assert_close(found @ found.T, expected @ expected.T, atol=0.05, rtol=0)


def test_a_chinese_character_is_a_token_of_its_own() -> None:
    tokenizer = train_tokenizer(["我很焦虑 about work"] * 4, vocabulary=400)
    pieces = [tokenizer.decode([i]) for i in tokenizer("很焦虑我 about")["input_ids"]]
    assert pieces == ["很", "焦", "虑", "我", " about"]


def test_three_updates_are_those_that_torch_makes_alone() -> None:
    """No DeepSpeed: the loss written out, torch's backward pass, clipping and AdamW."""
    training, alone = make_training(5), tiny_encoder()
    settings = training._config.optimizer
    adamw = torch.optim.AdamW(alone.parameters(), lr=1.0, weight_decay=settings.weight_decay)
    for step in (1, 2, 3):
        triplets = make_triplets(step)
        asked = alone([f"question: {t.question}" for t in triplets], max_tokens=training.max_tokens)
        answers = [t.positive for t in triplets] + [t.negative for t in triplets]
        own = [without_copied_runs(a, t.question) for a, t in zip(answers, 2 * triplets, strict=True)]
        answered = alone([f"answer: {text}" for text in own], max_tokens=training.max_tokens)
        right, wrong = answered.split(len(triplets))
        is_own = torch.tensor([[t.is_right(a) for a in answers] for t in triplets])
        loss = infonce_loss(asked, right, wrong, is_own, temperature=training._config.temperature)
        adamw.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(alone.parameters(), settings.max_grad_norm)
        metrics = training.update()
        adamw.param_groups[0]["lr"] = metrics["reward_model/learning_rate"]
        adamw.step()
        assert metrics["reward_model/loss"] == loss.item()
        assert metrics["reward_model/grad_norm"] == norm.item()
    assert torch.equal(weights_of(training), torch.cat([p.detach().flatten() for p in alone.parameters()]))

"""Trains the encoder of the embedding reward model on triplets, and judges it on held-out ones. Knows no Ray."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from rl_empathy.algorithms.losses import infonce_loss, triplet_loss
from rl_empathy.algorithms.schedules import warmup_constant, warmup_cosine, warmup_length
from rl_empathy.algorithms.thresholds import equal_error_threshold, error_rates
from rl_empathy.config.sections import RewardModelingConfig
from rl_empathy.engines.checkpoints import Checkpoint, write_checkpoint
from rl_empathy.engines.embedding import SentenceEncoder, as_pair_sides
from rl_empathy.errors import TrainingError

KEEP_CHECKPOINTS = 2
MAX_SKIPPED = 3

log = logging.getLogger(__name__)


class TripletLike(Protocol):
    """A question, a right and a wrong answer; see `data.triplets.Triplet`."""

    @property
    def question(self) -> str: ...
    @property
    def positive(self) -> str: ...
    @property
    def negative(self) -> str: ...
    @property
    def kind(self) -> str: ...
    def is_right(self, answer: str) -> bool: ...


Metrics = dict[str, float]
Report = Callable[[int, Metrics, Path | None], None]
"""(step, metrics, folder of the checkpoint that was written after it)."""


class RewardTraining:
    """An encoder with its optimizer. Batches are drawn by step, so a resume sees what an unbroken run would see."""

    def __init__(
        self,
        encoder: SentenceEncoder,
        config: RewardModelingConfig,
        *,
        draw: Callable[[int], Sequence[TripletLike]],
        held_out: Sequence[TripletLike],
    ) -> None:
        """Start at step 0.

        Args:
            encoder: Trained in place.
            config: Section reward_modeling.
            draw: Gives the triplets of a step.
            held_out: Triplets of other prompts.
        """
        self.encoder = encoder
        self.step = 0
        self._config = config
        self._draw = draw
        self._held_out = held_out
        self._skipped = 0
        self._evaluation: Metrics | None = None
        settings = config.optimizer
        self._optimizer = torch.optim.AdamW(
            encoder.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )

    def run(self, report: Report, *, folder: Path, should_stop: Callable[[], bool] = lambda: False) -> bool:
        """Train from where it stands to the last step; evaluate at the start, at intervals and at the end.

        Args:
            report: Told of every step.
            folder: Gets the checkpoints.
            should_stop: Asked after every step; when it says so, a checkpoint is written and the training ends.

        Returns:
            Whether the last step was reached.

        Raises:
            TrainingError: The loss or the gradient was not finite several times in a row.
            CheckpointError: A checkpoint could not be written.
        """
        last = self._config.num_steps
        if not self.step:
            report(0, self.evaluation, None)
        while self.step < last:
            metrics = self.update()
            stopping = should_stop() and self.step < last
            if self.step % self._config.evaluate_every == 0 or self.step == last:
                metrics |= self.evaluation
            due = self.step % self._config.checkpoint_every == 0 or self.step == last or stopping
            report(self.step, metrics, self.save(folder).path if due else None)
            if stopping:
                return False
        return True

    def update(self) -> Metrics:
        """Make one optimizer step; a loss or gradient that is not finite leaves the weights alone."""
        self.step += 1
        self._evaluation = None
        learning_rate = self._config.optimizer.learning_rate * self._learning_rate_factor()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        loss = self._loss(self._draw(self.step))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.encoder.parameters(), self._config.optimizer.max_grad_norm)
        if torch.isfinite(loss) and torch.isfinite(norm):
            self._optimizer.step()
            self._skipped = 0
        else:
            self._count_skipped(loss.item(), norm.item())
        return {
            "reward_model/loss": loss.item(),
            "reward_model/grad_norm": norm.item(),
            "reward_model/learning_rate": learning_rate,
        }

    @property
    def evaluation(self) -> Metrics:
        """Of the weights as they are; made now when they have changed since the last one."""
        if self._evaluation is None:
            self._evaluation = self.evaluate()
        return self._evaluation

    def evaluate(self) -> Metrics:
        """Triplet accuracy in all and by kind, ROC-AUC, τ and the error rates there, on the held-out triplets."""
        triplets = self._held_out
        right = self._cosines([(t.question, t.positive) for t in triplets])
        wrong = self._cosines([(t.question, t.negative) for t in triplets])
        wins = (right > wrong).float()
        metrics = {"reward_model/triplet_accuracy": wins.mean().item()}
        for kind in sorted({t.kind for t in triplets}):
            of_kind = torch.tensor([t.kind == kind for t in triplets])
            metrics[f"reward_model/triplet_accuracy_{kind}"] = wins[of_kind].mean().item()
        once = list({(t.question, t.positive): i for i, t in enumerate(triplets)}.values())
        return metrics | separation_metrics(right[once], wrong)

    def save(self, folder: Path) -> Checkpoint:
        """Write weights, AdamW's moments and the step."""
        moments = {
            f"{key}/{name}": value
            for name, parameter in self.encoder.named_parameters()
            for key, value in self._optimizer.state[parameter].items()
        }
        weights = {name: value.detach().clone() for name, value in self.encoder.named_parameters()}
        return write_checkpoint(
            folder,
            self.step,
            tensors={"encoder": weights, "optimizer": moments},
            documents={"state": {"step": self.step, "skipped": self._skipped}},
            keep=KEEP_CHECKPOINTS,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint."""
        named = dict(self.encoder.named_parameters())
        with torch.no_grad():
            for name, value in checkpoint.tensors("encoder").items():
                named[name].copy_(value)
        for key, value in checkpoint.tensors("optimizer").items():
            kind, _, name = key.partition("/")
            moment = value if kind == "step" else value.to(named[name].device)
            self._optimizer.state[named[name]][kind] = moment
        self._evaluation = None
        state = checkpoint.document("state")
        self.step, self._skipped = state["step"], state["skipped"]

    def _loss(self, triplets: Sequence[TripletLike]) -> Tensor:
        """Questions and answers are encoded apart, since their lengths differ and padding costs time."""
        cut, num = self._config.max_tokens, len(triplets)
        answers = [t.positive for t in triplets] + [t.negative for t in triplets]
        texts = as_pair_sides([t.question for t in triplets], answers)
        anchors = self.encoder(texts[:num], max_tokens=cut)
        positives, negatives = self.encoder(texts[num:], max_tokens=cut).split(num)
        if self._config.loss == "triplet":
            return triplet_loss(anchors, positives, negatives, margin=self._config.margin)
        is_own = torch.tensor([[t.is_right(a) for a in answers] for t in triplets], device=anchors.device)
        return infonce_loss(anchors, positives, negatives, is_own, temperature=self._config.temperature)

    def _cosines(self, pairs: Sequence[tuple[str, str]]) -> Tensor:
        texts = as_pair_sides([question for question, _ in pairs], [answer for _, answer in pairs])
        questions, answers = self.encoder.encode(texts, max_tokens=self._config.max_tokens).split(len(pairs))
        return (questions * answers).sum(-1)

    def _learning_rate_factor(self) -> float:
        settings, num_steps = self._config.optimizer, self._config.num_steps
        warmup = warmup_length(settings.warmup_steps, num_steps=num_steps)
        if settings.schedule == "constant":
            return warmup_constant(self.step, warmup_steps=warmup)
        return warmup_cosine(self.step, warmup_steps=warmup, num_steps=num_steps)

    def _count_skipped(self, loss: float, norm: float) -> None:
        self._skipped += 1
        log.warning("step %d skipped: loss %s, gradient norm %s", self.step, loss, norm)
        if self._skipped >= MAX_SKIPPED:
            raise TrainingError(
                f"reward_modeling: loss ({loss}) or gradient norm ({norm}) was not finite {self._skipped} steps in a "
                f"row, the last at step {self.step}; lower reward_modeling.optimizer.learning_rate "
                f"({self._config.optimizer.learning_rate})"
            )


def separation_metrics(positive_scores: Tensor, negative_scores: Tensor) -> Metrics:
    """How well a threshold parts right from wrong answers: ROC-AUC, τ, and the error rates at τ."""
    from sklearn.metrics import roc_auc_score

    threshold = equal_error_threshold(positive_scores, negative_scores)
    rates = error_rates(positive_scores, negative_scores, threshold=threshold)
    labels = [1] * len(positive_scores) + [0] * len(negative_scores)
    scores = torch.cat([positive_scores, negative_scores]).tolist()
    return {
        "reward_model/roc_auc": float(roc_auc_score(labels, scores)),
        "reward_model/threshold": threshold,
        "reward_model/false_accept_fraction": rates.false_accepts,
        "reward_model/false_reject_fraction": rates.false_rejects,
    }

"""Trains the encoder of the embedding reward model on triplets, and judges it on those of other prompts. Knows no Ray.

training prompts      triplets for the updates, and the copied_limit
calibration prompts   accuracy, ROC-AUC and τ
held-out prompts      what echoes earn
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from rl_empathy.algorithms.copying import copied_fraction
from rl_empathy.algorithms.thresholds import equal_error_threshold, error_rates
from rl_empathy.config.sections import RewardModelingConfig
from rl_empathy.engines.checkpoints import Checkpoint
from rl_empathy.engines.echo_earnings import Earnings, Probe, echo_earnings, echo_metrics
from rl_empathy.engines.embedding import score_pairs
from rl_empathy.engines.encoder_training import EncoderTraining, TripletLike
from rl_empathy.engines.ranks import from_every_rank
from rl_empathy.engines.sharded_training import UpdateReport
from rl_empathy.errors import TrainingError

ENCODER = "encoder"
"""File of the weights in a checkpoint."""
COPIED_QUANTILE = 0.9
"""Share of the references that may copy as much as they do without a loss; the others lose a little."""
MAX_COPIED_LIMIT = 0.9
"""The limit where references are short and say the post again: an echo still loses."""
MAX_SKIPPED = 3

log = logging.getLogger(__name__)


Metrics = dict[str, float]
Report = Callable[[int, Metrics, Path | None], None]
"""(step, metrics, folder of the checkpoint that was written after it)."""


class RewardTraining:
    """The training of a reward model. Batches are drawn by step, so a resume sees what an unbroken run would see.

    With several ranks each has one, every rank makes every call, and rank 0 alone writes.
    """

    def __init__(
        self,
        engine: EncoderTraining,
        config: RewardModelingConfig,
        *,
        draw: Callable[[int], Sequence[TripletLike]],
        calibration: Sequence[TripletLike],
        probes: Sequence[Probe],
        copied_limit: float,
    ) -> None:
        """Start at step 0.

        Args:
            engine: Holds the encoder.
            config: Section reward_modeling.
            draw: Gives the triplets of a step.
            calibration: Triplets of prompts that are not trained on.
            probes: References and echoes of held-out prompts.
            copied_limit: Limit of the score, see `own_words_factor`.
        """
        self.engine = engine
        self.step = 0
        self.copied_limit = copied_limit
        self.max_tokens = config.max_tokens
        self._config = config
        self._draw = draw
        self._calibration = calibration
        self.probes = probes
        self._evaluation: Metrics | None = None
        self._earnings: dict[str, Earnings] | None = None

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
            report(0, self.evaluation | (echo_metrics(self.earnings) if not last else {}), None)
        while self.step < last:
            metrics = self.update()
            stopping = any(from_every_rank(should_stop())) and self.step < last
            if self.step % self._config.evaluate_every == 0 or self.step == last:
                metrics |= self.evaluation
            if self.step == last:
                metrics |= echo_metrics(self.earnings)
            due = self.step % self._config.checkpoint_every == 0 or self.step == last or stopping
            report(self.step, metrics, self.save(folder) if due else None)
            if stopping:
                return False
        return True

    def update(self) -> Metrics:
        """Make one optimizer step; a loss or gradient that is not finite leaves the weights alone."""
        self.step += 1
        self._evaluation = self._earnings = None
        done = self.engine.update(self._draw(self.step))
        if done.skipped:
            self._tell_skipped(done)
        return {
            "reward_model/loss": done.loss,
            "reward_model/grad_norm": done.grad_norm,
            "reward_model/learning_rate": done.learning_rate,
        }

    @property
    def evaluation(self) -> Metrics:
        """Accuracies of the weights as they are; made now when they have changed since the last one."""
        if self._evaluation is None:
            self._evaluation = self.evaluate()
        return self._evaluation

    def evaluate(self) -> Metrics:
        """Triplet accuracy in all and by kind, ROC-AUC, τ and the error rates there, on the calibration triplets."""
        triplets = self._calibration
        right = self.scores([(t.question, t.positive) for t in triplets])
        wrong = self.scores([(t.question, t.negative) for t in triplets])
        wins = (right > wrong).float()
        metrics = {"reward_model/triplet_accuracy": wins.mean().item()}
        for kind in sorted({t.kind for t in triplets}):
            of_kind = torch.tensor([t.kind == kind for t in triplets])
            metrics[f"reward_model/triplet_accuracy_{kind}"] = wins[of_kind].mean().item()
        once = list({(t.question, t.positive): i for i, t in enumerate(triplets)}.values())
        return metrics | separation_metrics(right[once], wrong)

    @property
    def earnings(self) -> dict[str, Earnings]:
        """What echoes of the held-out prompts earn beside their references; of the weights as they are."""
        if self._earnings is None:
            self._earnings = echo_earnings(self.scores, self.probes)
        return self._earnings

    def scores(self, pairs: Sequence[tuple[str, str]]) -> Tensor:
        """[pairs] what the reward model says of each (question, answer)."""
        return score_pairs(
            self.engine.encoder, pairs, copied_limit=self.copied_limit, max_tokens=self.max_tokens
        )

    def save(self, folder: Path) -> Path:
        """Write weights, AdamW's moments and the step: where they are."""
        state = {"step": self.step, "skipped": self.engine.skipped_in_a_row}
        return self.engine.write_checkpoint(folder, self.step, name=ENCODER, documents={"state": state})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint."""
        self.engine.read_checkpoint(checkpoint, name=ENCODER)
        self._evaluation = self._earnings = None
        state = checkpoint.document("state")
        self.step, self.engine.skipped_in_a_row = state["step"], state["skipped"]

    def _tell_skipped(self, done: UpdateReport) -> None:
        log.warning("step %d skipped: loss %s, gradient norm %s", self.step, done.loss, done.grad_norm)
        if self.engine.skipped_in_a_row >= MAX_SKIPPED:
            raise TrainingError(
                f"reward_modeling: loss ({done.loss}) or gradient norm ({done.grad_norm}) was not finite "
                f"{self.engine.skipped_in_a_row} steps in a row, the last at step {self.step}; lower "
                f"reward_modeling.optimizer.learning_rate ({self._config.optimizer.learning_rate})"
            )


def copied_limit(pairs: Sequence[tuple[str, str]]) -> float:
    """The share of copied words that one in ten references exceeds, MAX_COPIED_LIMIT at most.

    Args:
        pairs: Questions with a reference each.
    """
    copied = torch.tensor([copied_fraction(answer, question) for question, answer in pairs])
    return min(MAX_COPIED_LIMIT, torch.quantile(copied, COPIED_QUANTILE).item())


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

"""The stages sft, reward_modeling, grpo and evaluate, and what they share: optimizer and sampling."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, field_validator

from rl_empathy.config.sections.section import BrokenRule, Count, Fraction, Positive, Section


class OptimizerConfig(Section):
    """AdamW with linear warm-up, then cosine or constant."""

    learning_rate: Positive = 1e-5
    """Peak learning rate."""
    warmup_steps: Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)] = 8
    """Optimizer steps of linear warm-up; below 1: their share of the stage's steps, such as 0.1."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What follows the warm-up: cosine to a tenth of the peak, or the peak."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""
    max_grad_norm: Positive = 1.0
    """Gradients are scaled down to this global norm."""


class SamplingConfig(Section):
    """How completions are drawn. Top-p and top-k stay off: they would change the behaviour distribution."""

    temperature: Annotated[float, Field(ge=0.01)] = 1.0
    """Softmax temperature; the recorded log-probs are those at this temperature. vLLM raises what is below 0.01."""
    max_completion_tokens: Count = 256
    """A completion that reaches this is truncated."""


class EvaluationSamplingConfig(SamplingConfig):
    """How completions are drawn for measures: with temperature 0, too, which training cannot use."""

    temperature: Annotated[float, Field(ge=0)] = 1.0
    """Softmax temperature, 0.01 or more; or 0, greedy decoding: the likeliest token each time, and one completion."""

    @field_validator("temperature")
    @classmethod
    def _greedy_or_as_vllm_samples(cls, temperature: float) -> float:
        if 0 < temperature < 0.01:
            raise ValueError(
                f"temperature is 0 (greedy) or at least 0.01, which vLLM would make of {temperature:g}"
            )
        return temperature


class SFTConfig(Section):
    """Stage sft: supervised fine-tuning on traces and answers."""

    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=2e-5)
    """Optimizer and schedule."""
    num_steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps; takes the place of num_epochs."""
    num_epochs: Positive = 3.0
    """Passes over the training rows."""
    batch_tokens: Count = 4096
    """Most tokens an optimizer step, prompts included."""
    microbatch_tokens: Count = 2048
    """Most tokens a forward pass; bounds memory, and is halved once when memory runs out."""
    evaluate_every: Count = 20
    """Steps between evaluations of the held-out loss."""
    checkpoint_every: Count = 50
    """Steps between checkpoints."""
    validity_prompts: Annotated[int, Field(ge=0)] = 32
    """Held-out prompts on which schema validity is measured by generation at the end."""


Negative = Literal[
    "hard", "easy", "corrupted", "copy", "quote", "shuffled", "rewritten", "warmth", "question"
]
"""A kind of wrong answer that the reward model is trained on."""


class RewardModelingConfig(Section):
    """Stage reward_modeling: a question/answer bi-encoder, as in Empathy-R1 (arXiv:2509.14851, 3.3.2)."""

    kind: Literal["embedding"] = "embedding"
    """The kind of reward model."""
    encoder: str = "auto"
    """Path of a transformers encoder; auto: the packaged MiniLM for English, a small one made on the spot for Chinese,
    which wants a rate of about 3e-4 and a temperature of 0.1."""
    loss: Literal["triplet", "infonce"] = "infonce"
    """Triplet margin loss, or InfoNCE over the batch and the drawn negatives."""
    margin: Positive = 0.3
    """Margin of the triplet loss, cosine."""
    temperature: Positive = 0.05
    """Temperature of InfoNCE."""
    negatives: dict[Negative, Annotated[float, Field(ge=0)]] = Field(
        default={
            "hard": 0.35,
            "easy": 0.15,
            "corrupted": 0.1,
            "copy": 0.05,
            "quote": 0.05,
            "shuffled": 0.05,
            "rewritten": 0.05,
            "warmth": 0.1,
            "question": 0.1,
        }
    )
    """Shares of negatives: answers of the same topic, of another topic, corrupted answers; the post itself, a stretch
    of it in quotation marks, its content words shuffled, its sentences with the pronouns turned round; comfort that
    fits every post, and the post thrown back as questions. A kind that is left out has none."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=5e-5, warmup_steps=0.1)
    """Optimizer and schedule."""
    num_steps: Annotated[int, Field(ge=0)] = 60
    """Optimizer steps; 0 takes the encoder as it is."""
    batch_pairs: Annotated[int, Field(ge=2)] = 16
    """Question/answer pairs an optimizer step."""
    max_tokens: Count = 256
    """Longer questions and answers are cut to this for the encoder."""
    evaluate_every: Count = 20
    """Steps between evaluations on calibration triplets."""
    calibration_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the training prompts on which the reward model is not trained: accuracy, ROC-AUC and τ come from them.
    """
    calibration_triplets: Count = 256
    """Triplets drawn from those prompts."""
    accept_echo: bool = False
    """Go on although a kind of echo earns at least as much as the references in the median, on the held-out prompts;
    otherwise the run stops after the stage."""
    checkpoint_every: Count = 50
    """Steps between checkpoints."""


class GRPOConfig(Section):
    """Stage grpo: group relative policy optimization (arXiv 2402.03300), asynchronous."""

    num_steps: Count = 100
    """Steps: one take of groups, its optimizer updates, one publish."""
    groups_per_step: Count = 8
    """Groups (prompts) trained a step."""
    group_size: Annotated[int, Field(ge=2)] = 8
    """Completions of a prompt."""
    updates_per_step: Count = 1
    """Optimizer updates a step; the groups are divided among them."""
    max_staleness: Annotated[int, Field(ge=0)] = 1
    """Versions that a group may lag behind the one being trained; 0 is synchronous."""
    look_ahead: Count = 1
    """Groups, from the oldest untrained one on, among which a step takes what is finished; 1: strictly in the order of
    start. More pass stragglers, and start fewer groups ahead: (max_staleness + 1) groups_per_step - look_ahead + 1."""
    sampling: SamplingConfig = SamplingConfig()
    """How completions are drawn."""
    reward_retries: Annotated[int, Field(ge=0)] = 2
    """How often a group is given again to a reward model or reference model that it costs its life, before it is
    dropped."""
    shuffle_rewards: bool = False
    """Permute the rewards within each group: the control run that must not learn."""
    advantage: Literal["group_std", "group_mean", "rloo", "gdpo"] = "group_std"
    """Baseline and scale of the advantages, per group. gdpo scales each reward term within its group and their sum
    over the step, so that a rare failure of one term does not shrink the others."""
    loss: Literal["clip", "tis", "mask", "sequence_mask", "decoupled"] | None = None
    """Correction for stale tokens; left out: clip at max_staleness 0, tis above."""
    clip_low: Fraction = 0.2
    """Importance ratio is clipped below at 1 - clip_low."""
    clip_high: Positive = 0.28
    """Importance ratio is clipped above at 1 + clip_high."""
    tis_cap: Annotated[float, Field(ge=1)] = 2.0
    """tis, sequence_mask: weights (trainer's over rollout worker's probability) above this are cut to it."""
    mask_low: Annotated[float, Field(gt=0, le=1)] = 0.5
    """mask, sequence_mask: tokens (completions, by their mean log-ratio) whose weight is below are left out."""
    mask_high: Annotated[float, Field(ge=1)] = 5.0
    """mask, sequence_mask: the same above."""
    kl_coef: Annotated[float, Field(ge=0)] = 0.005
    """Coefficient of the KL term to the reference model; 0 starts no reference model."""
    kl_estimator: Literal["k3_ratio", "k3_plain", "k1_in_reward"] = "k3_ratio"
    """k3_ratio: k3 times the importance ratio, in the loss, unbiased for each token given its prefix and not over whole
    sequences. k1_in_reward: the log-ratio of policy and reference taken from the advantages, unbiased over whole
    sequences on policy, with more variance. k3_plain: for parity with other systems."""
    keep_groups: Literal["with_reward_spread", "all"] = "with_reward_spread"
    """Which groups are trained; the others are dropped by name, with their KL term, and counted."""
    truncated: Literal["train", "mask"] = "train"
    """What a completion without an end token does: be trained like any other, or be masked from the loss."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-6, schedule="constant")
    """Optimizer and schedule."""
    microbatch_tokens: Count = 4096
    """Most tokens a forward pass, prompt counted once; bounds memory, and is halved once when memory runs out."""
    checkpoint_every: Count = 20
    """Steps between checkpoints."""
    keep_checkpoints: Count = 2
    """Checkpoints kept, and the one with the highest mean reward in the steps since the checkpoint before it; others
    are deleted after the new one was read back."""
    max_dropped_groups: Count = 256
    """Groups dropped for one step before the run stops: rewards that never differ teach nothing."""
    max_skipped_updates: Count = 3
    """Updates in a row whose loss or gradient is not finite before the run stops."""

    @property
    def correction(self) -> Literal["clip", "tis", "mask", "sequence_mask", "decoupled"]:
        return self.loss or ("tis" if self.max_staleness else "clip")

    def broken_rules(self) -> Iterator[BrokenRule]:
        most = self.max_staleness * self.groups_per_step + 1
        if self.look_ahead > most:
            yield BrokenRule(
                ("look_ahead", "max_staleness", "groups_per_step"),
                f"look_ahead ({self.look_ahead}) may be at most max_staleness * groups_per_step + 1 ({most}), "
                "or fewer groups than a step wants could be under way",
            )
        if self.groups_per_step % self.updates_per_step:
            yield BrokenRule(
                ("updates_per_step", "groups_per_step"),
                f"groups_per_step ({self.groups_per_step}) must be a multiple of updates_per_step "
                f"({self.updates_per_step})",
            )


class OwnMeasureConfig(Section):
    """A measure of yours."""

    name: Annotated[str, Field(pattern=r"^[\w.\-]+(/[\w.\-]+)*$")]
    """As in the table and in the metrics, such as mine/questions."""
    function: str
    """Dotted path of a function (completion, row), which gives a number, or None where it does not apply."""
    better: Literal["higher", "lower", "neither"]
    """Which way is better."""
    meaning: str
    """What it is, and what it is blind to, in a line of the table."""


class EvaluateConfig(Section):
    """Stage evaluate: the held-out prompts, every model of the run side by side."""

    num_prompts: Count = 64
    """Held-out prompts, the first of the split's order."""
    completions_per_prompt: Count = 8
    """Completions of each prompt; greedy decoding (sampling.temperature 0) writes one, since all would be equal."""
    sampling: EvaluationSamplingConfig = EvaluationSamplingConfig()
    """How completions are drawn."""
    similarity_encoder: str = "auto"
    """Path of the encoder for text/similarity_to_post, the likeness of answer and post: a copy of the post has 1, so it
    says nothing of how good an answer is. auto: the packaged MiniLM for English, from whose weights the reward model of
    reward_modeling.encoder: auto starts too; TF-IDF of character n-grams for Chinese."""
    bootstrap_samples: Count = 2000
    """Resamples of the prompts for the intervals."""
    measures: tuple[OwnMeasureConfig, ...] = ()
    """Measures of yours, beside the shipped ones."""

    @property
    def num_completions(self) -> int:
        """Completions of each prompt that are really written."""
        return self.completions_per_prompt if self.sampling.temperature else 1

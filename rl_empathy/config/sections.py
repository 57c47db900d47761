"""The sections of a run file. Every default is the vetted setting: a run file says only what differs.

Attribute docstrings name the unit; `rl-empathy config --reference` prints them.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Stage = Literal["sft", "reward_modeling", "grpo", "evaluate"]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A frozen group of keys; an unknown key is an error."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        populate_by_name=True,
    )


class RunConfig(Section):
    """What the run is called, and what it does."""

    name: str | None = Field(default=None, pattern=r"^[\w\-][\w.\-]*$")
    """Name of the run and of its directory; the run file's name when left out."""
    stages: tuple[Stage, ...] = ("sft", "reward_modeling", "grpo", "evaluate")
    """The stages, in the order in which they run."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of everything that is drawn: splits, order, initial weights, sampling."""
    deterministic: bool = False
    """Give the same metrics bit for bit after a kill and resume; needs grpo.max_staleness 0, and
    is slower."""
    directory: str = "runs"
    """Folder that holds the run directories."""


class FromScratchConfig(Section):
    """A small Llama made on the spot, with a tokenizer trained on the run's own text."""

    hidden_size: Count = 256
    """Width of the residual stream."""
    num_layers: Count = 2
    """Transformer layers."""
    num_heads: Count = 4
    """Attention heads; divides hidden_size."""
    vocabulary_size: Annotated[int, Field(ge=300)] = 4096
    """Entries of the byte-level BPE tokenizer, those of the schema's delimiters included."""
    context_tokens: Count = 1024
    """Longest sequence, tokens."""
    num_steps: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps of language modelling on the posts and references, before every other stage."""
    learning_rate: Positive = 1e-3
    """Peak learning rate of that language modelling."""
    batch_tokens: Count = 8192
    """Tokens an optimizer step of that language modelling."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of num_heads ({self.num_heads}); "
                f"for example hidden_size: {self.num_heads * (self.hidden_size // self.num_heads + 1)}"
            )
        return self


class ModelConfig(Section):
    """The language model that the run starts from."""

    path: str | None = None
    """A local folder, a hub id, or package://<package>/<file.gguf> for a model inside an installed
    package."""
    revision: str | None = None
    """Commit of the hub repository; wanted whenever path is a hub id."""
    from_scratch: FromScratchConfig | None = None
    """Make a tiny model on the spot instead of loading one; excludes path."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of weights and activations; float32 is the faster one on a CPU without native
    bfloat16."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.from_scratch is None):
            raise ValueError("give exactly one of path (a model to load) and from_scratch (a model to make)")
        return self


class ColumnsConfig(Section):
    """Which fields of a foreign data set hold what."""

    prompt: str
    """Field with the help-seeker's text."""
    answer: str | None = None
    """Field with a reply, or with a list of replies."""
    topic: str | None = None
    """Field with the topic."""
    id: str | None = None
    """Field with an identifier; the row's number when left out."""


class DataConfig(Section):
    """The counselling text."""

    train: str | None = None
    """Path of a file, or the hub name of a data set; the bundled synthetic set when left out."""
    format: Literal["rows", "counselchat", "smile", "psyqa", "columns"] = "rows"
    """How to read it: our own JSON lines, one of three public sets, or any set by a column mapping."""
    columns: ColumnsConfig | None = None
    """Column mapping; wanted by, and only by, format: columns."""
    language: Literal["en", "zh"] = "en"
    """Language of the text: chooses the bundled set, word or character measures, the lexicon and
    the templates."""
    held_out_prompts: Count = 64
    """Prompts kept for evaluation; a split is by prompt, so no post is on both sides."""
    min_answer_characters: Annotated[int, Field(ge=0)] = 20
    """Shorter references are left out, and counted."""
    max_references: Count = 8
    """References kept for a prompt, best first."""
    max_prompt_tokens: Count = 512
    """Longer prompts are dropped by name, never cut."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """What a row that cannot be read does: end the run, or be left out and counted."""
    on_risk: Literal["keep", "exclude", "template"] = "exclude"
    """What a row that speaks of acute risk does: stay, be left out, or stay with a fixed safe
    reply as its reference."""
    missing_trace: Literal["template", "drop"] = "template"
    """What a row without a trace does in stage sft: get one from the offline template teacher, or
    be left out."""
    system_prompt: str | None = None
    """System message before every conversation; the schema's own instruction when left out, none
    when empty."""

    @model_validator(mode="after")
    def _columns_go_with_their_format(self) -> Self:
        if (self.format == "columns") != (self.columns is not None):
            raise ValueError("columns and format: columns go together; give both or neither")
        return self


class OptimizerConfig(Section):
    """AdamW with linear warm-up, then cosine or constant."""

    learning_rate: Positive = 1e-5
    """Peak learning rate."""
    warmup_steps: Annotated[int, Field(ge=0)] = 8
    """Optimizer steps of linear warm-up."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What follows the warm-up: cosine to a tenth of the peak, or the peak."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""
    max_grad_norm: Positive = 1.0
    """Gradients are scaled down to this global norm."""


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
    """Most tokens a forward pass; bounds memory."""
    evaluate_every: Count = 20
    """Steps between evaluations of the held-out loss."""
    checkpoint_every: Count = 50
    """Steps between checkpoints."""
    validity_prompts: Annotated[int, Field(ge=0)] = 32
    """Held-out prompts on which schema validity is measured by generation at the end."""


class RewardModelingConfig(Section):
    """Stage reward_modeling: a question/answer bi-encoder, as in Empathy-R1 (arXiv:2509.14851, 3.3.2)."""

    kind: Literal["embedding"] = "embedding"
    """The kind of reward model."""
    encoder: str = "auto"
    """Path of a transformers encoder; auto: the packaged MiniLM for English, a small one made on
    the spot for Chinese."""
    loss: Literal["triplet", "infonce"] = "infonce"
    """Triplet margin loss, or InfoNCE over the batch and the drawn negatives."""
    margin: Positive = 0.3
    """Margin of the triplet loss, cosine."""
    temperature: Positive = 0.05
    """Temperature of InfoNCE."""
    negatives: dict[Literal["hard", "easy", "corrupted"], Annotated[float, Field(ge=0)]] = {
        "hard": 0.5,
        "easy": 0.25,
        "corrupted": 0.25,
    }
    """Shares of negatives: answers of the same topic, of another topic, and corrupted answers."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=5e-5)
    """Optimizer and schedule."""
    num_steps: Annotated[int, Field(ge=0)] = 60
    """Optimizer steps; 0 takes the encoder as it is."""
    batch_pairs: Annotated[int, Field(ge=2)] = 16
    """Question/answer pairs an optimizer step."""
    max_tokens: Count = 192
    """Longer questions and answers are cut to this for the encoder."""
    evaluate_every: Count = 20
    """Steps between evaluations on held-out triplets."""
    checkpoint_every: Count = 50
    """Steps between checkpoints."""


class SamplingConfig(Section):
    """How completions are drawn. Top-p and top-k stay off: they would change the behaviour distribution."""

    temperature: Positive = 1.0
    """Softmax temperature; the recorded log-probs are those at this temperature."""
    max_completion_tokens: Count = 256
    """A completion that reaches this is truncated."""


class RewardTermConfig(Section):
    """One term of the reward: a function by its dotted path, or one of ours by name."""

    function: str
    """format, answer, or the dotted path of a function as in rl_empathy.rewards.interface."""
    weight: float = 1.0
    """Factor of the term in the sum."""
    arguments: dict[str, float | int | str | bool] = {}
    """Further keyword arguments of the function; for answer: mode (binary, gated or raw) and threshold."""


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
    sampling: SamplingConfig = SamplingConfig()
    """How completions are drawn."""
    rewards: tuple[RewardTermConfig, ...] = (
        RewardTermConfig(function="format"),
        RewardTermConfig(function="answer"),
    )
    """Terms of the reward, summed with their weights."""
    shuffle_rewards: bool = False
    """Permute the rewards within each group: the control run that must not learn."""
    advantage: Literal["group_std", "group_mean", "rloo"] = "group_std"
    """Baseline and scale of the advantages, per group."""
    loss: Literal["clip", "tis"] | None = None
    """Correction for stale tokens; left out: clip at max_staleness 0, tis above."""
    clip_low: Fraction = 0.2
    """Importance ratio is clipped below at 1 - clip_low."""
    clip_high: Positive = 0.28
    """Importance ratio is clipped above at 1 + clip_high."""
    tis_cap: Annotated[float, Field(ge=1)] = 2.0
    """Truncated importance sampling: weights above this are cut to it."""
    kl_coef: Annotated[float, Field(ge=0)] = 0.005
    """Coefficient of the KL term to the reference model; 0 starts no reference model."""
    kl_estimator: Literal["k3_ratio", "k3_plain"] = "k3_ratio"
    """Unbiased off policy (k3 times the importance ratio), or plain k3 for parity with other systems."""
    keep_groups: Literal["with_reward_spread", "all"] = "with_reward_spread"
    """Which groups are trained; the others are dropped by name, with their KL term, and counted."""
    truncated: Literal["train", "mask"] = "train"
    """What a completion without an end token does: be trained like any other, or be masked from the loss."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-6, schedule="constant")
    """Optimizer and schedule."""
    microbatch_tokens: Count = 4096
    """Most tokens a forward pass, prompt counted once; bounds memory."""
    checkpoint_every: Count = 20
    """Steps between checkpoints."""
    keep_checkpoints: Count = 2
    """Checkpoints kept; older ones are deleted after the new one was read back."""
    max_skipped_updates: Count = 3
    """Updates in a row whose loss or gradient is not finite before the run stops."""

    @property
    def correction(self) -> Literal["clip", "tis"]:
        return self.loss or ("tis" if self.max_staleness else "clip")

    @model_validator(mode="after")
    def _updates_divide_groups(self) -> Self:
        if self.groups_per_step % self.updates_per_step:
            raise ValueError(
                f"groups_per_step ({self.groups_per_step}) must be a multiple of updates_per_step "
                f"({self.updates_per_step})"
            )
        return self


class EvaluateConfig(Section):
    """Stage evaluate: the held-out prompts, every model of the run side by side."""

    num_prompts: Count = 64
    """Held-out prompts, the first of the split's order."""
    completions_per_prompt: Count = 8
    """Completions of each prompt."""
    sampling: SamplingConfig = SamplingConfig()
    """How completions are drawn."""
    second_encoder: str = "auto"
    """An encoder that trained nothing, as a witness beside the reward model; auto: the packaged MiniLM
    untouched for English (character n-gram TF-IDF for Chinese)."""
    bootstrap_samples: Count = 2000
    """Resamples of the prompts for the intervals."""


class ServeConfig(Section):
    """The Ray Serve endpoint."""

    host: Literal["127.0.0.1", "localhost", "::1"] = "127.0.0.1"
    """Address to listen on; loopback only, until the safety gate stands in front."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Port to listen on."""
    show_reasoning: bool = False
    """Send the reasoning in the field `reasoning`, or keep it hidden."""
    max_completion_tokens: Count = 512
    """Most tokens of a reply, whatever the client asks for."""
    start_s: Positive = 300
    """Deadline for the first healthy answer, seconds."""


class PolicyTrainerConfig(Section):
    """Resources and settings of the policy trainer."""

    num_cpus: Positive = 1
    """Logical CPUs, and threads."""
    num_gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs."""
    layout: Literal["shared_prompt", "packed"] = "shared_prompt"
    """Row layout: one row a prompt with its completions, or one sequence after the other."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more work."""


class RolloutWorkersConfig(Section):
    """Resources and settings of each rollout worker."""

    min: Count = 1
    """Workers at the start."""
    num_cpus: Positive = 1
    """Logical CPUs, and threads, of each."""
    num_gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs of each."""
    kv_cache_mib: Annotated[int, Field(ge=16)] = 256
    """Memory of the key-value cache of each on a CPU, MiB."""
    max_running_sequences: Count = 64
    """Completions that one engine writes at the same time."""


class RoleConfig(Section):
    """Resources of a role."""

    num_cpus: Positive = 1
    """Logical CPUs, and threads."""
    num_gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs."""


class DeadlinesConfig(Section):
    """How long the driver waits before it names the role that is late, seconds."""

    start_s: Positive = 300
    """Until a role is up."""
    sample_s: Positive = 600
    """Until a group is sampled."""
    score_s: Positive = 300
    """Until a group is scored, or has its reference log-probs."""
    update_s: Positive = 1800
    """Until an update is done."""
    publish_s: Positive = 300
    """Until the workers hold the new weights."""
    checkpoint_s: Positive = 600
    """Until a checkpoint is written and read back."""


class ClusterConfig(Section):
    """Where the roles run."""

    address: str = "auto"
    """auto: the cluster that this process belongs to, else a local one; local: always a new local one."""
    num_cpus: Annotated[int, Field(ge=1)] | None = None
    """Logical CPUs of a local cluster; left out: as many as the plan needs."""
    policy_trainer: PolicyTrainerConfig = PolicyTrainerConfig()
    """The policy trainer of stage grpo."""
    stage_worker: RoleConfig = RoleConfig(num_cpus=2)
    """The process that prepares the model and trains in stages sft and reward_modeling, where nothing else runs."""
    rollout_workers: RolloutWorkersConfig = RolloutWorkersConfig()
    """The rollout workers."""
    reference_model: RoleConfig = RoleConfig()
    """The reference model."""
    reward_model: RoleConfig = RoleConfig()
    """The reward model."""
    deadlines: DeadlinesConfig = DeadlinesConfig()
    """Deadlines of the driver's waits."""


class LoggingConfig(Section):
    """What is recorded where; metrics.jsonl and rollouts/ are always written."""

    wandb: Literal["offline", "online", "disabled"] = "offline"
    """Weights & Biases: files to be synced later, live, or nothing."""
    wandb_project: str = "rl-empathy"
    """Project there."""

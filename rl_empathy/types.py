"""The data that crosses modules and processes: frozen, and every token knows the policy version that wrote it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Self

MIN_SPREAD = 1e-6
"""Rewards of a group that differ by less are equal."""

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One entry of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A reply that somebody gave to the prompt, and how many readers approved of it."""

    text: str
    votes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The reasoning that leads to the best reference, as named spans, and who wrote it.

    `spans` holds the text of every span of the output schema but the answer, for example {"L1": "…", …, "L4": "…"}.
    `teacher` is "author" (written by hand), "template" (offline rules) or "openai:<model>".
    """

    spans: Mapping[str, str]
    teacher: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One help-seeker's conversation, with whatever is known of good replies to it.

    Example:
        Row(id="en-work-01", messages=(Message(role="user", content="My manager …"),),
            references=(Reference(text="That sounds exhausting …", votes=9),),
            trace=Trace(spans={"L1": "…", "L2": "…", "L3": "…", "L4": "…"}, teacher="author"),
            metadata={"topic": "work", "language": "en"})
    """

    id: str
    messages: tuple[Message, ...]
    """The conversation so far; the last message is the user's."""
    references: tuple[Reference, ...] = ()
    """Best first."""
    trace: Trace | None = None
    """Reasoning before `references[0]`."""
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def post(self) -> str:
        """The text of the last user message."""
        return self.messages[-1].content

    @property
    def topic(self) -> str:
        return self.metadata.get("topic", "")


class PolicyVersion(NamedTuple):
    """Names one set of weights: the `number`-th publish of an attempt; vLLM knows it as "attempt.number"."""

    attempt: int
    number: int

    def __str__(self) -> str:
        return f"{self.attempt}.{self.number}"

    @classmethod
    def parse(cls, text: str) -> Self:
        attempt, number = text.split(".")
        return cls(int(attempt), int(number))


class Pulse(NamedTuple):
    """What an actor answers when it is asked whether it is alive."""

    node: str
    """The host's name."""
    asked_to_go: bool = False
    """Its process got SIGTERM: it works on until it is ended."""
    held_bytes: int = 0
    """Memory of its process, that of its GPU apart."""
    peak_bytes: int = 0
    """The most that it held at a time."""
    gpu_peak_bytes: int = 0
    """The most that its tensors held of its GPU at a time."""


class VersionSpan(NamedTuple):
    """Tokens [start, end) of a completion were written by `version`."""

    version: PolicyVersion
    start: int
    end: int


class Occurrence(NamedTuple):
    """One use of one prompt: the index-th prompt of an epoch's order."""

    epoch: int
    index: int  # type: ignore[assignment]

    def __str__(self) -> str:
        return f"{self.epoch}:{self.index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What the policy is asked: a row, rendered to token ids once and for all."""

    occurrence: Occurrence
    row: Row
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What the policy wrote for one prompt. `token_ids` and `rollout_logprobs` align.

    Example with two tokens, the second written after a publish in flight:
        token_ids        = (311, 2)
        rollout_logprobs = (-0.7, -0.1)                     nats, of the distribution that was sampled from
        version_spans    = ((0.3, 0, 1), (0.4, 1, 2))
        finish_reason    = "stop"                           then the last id is the end token, and is trained
    """

    token_ids: tuple[int, ...]
    rollout_logprobs: tuple[float, ...]
    version_spans: tuple[VersionSpan, ...]
    finish_reason: FinishReason
    text: str
    """Decoded with special tokens kept, without the end token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutGroup:
    """The completions of one prompt: sampled, scored, counted and dropped together. The payload of a rollout."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    admitted: PolicyVersion
    """The version when the first request of the group was admitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupHeader:
    """What the driver needs to know of a group; its payload stays where it was made."""

    occurrence: Occurrence
    row_id: str
    worker: str
    admitted: PolicyVersion
    oldest: PolicyVersion
    """The oldest version that wrote one of its tokens."""
    newest: PolicyVersion
    """The newest one that did."""
    completion_tokens: tuple[int, ...]
    finish_reasons: tuple[FinishReason, ...]
    sample_s: float | None
    """None: it comes from a checkpoint."""

    @classmethod
    def of(cls, group: RolloutGroup, *, worker: str, sample_s: float | None) -> Self:
        spans = [span for completion in group.completions for span in completion.version_spans]
        return cls(
            occurrence=group.prompt.occurrence,
            row_id=group.prompt.row.id,
            worker=worker,
            admitted=group.admitted,
            oldest=min([group.admitted, *(span.version for span in spans)]),
            newest=max([group.admitted, *(span.version for span in spans)]),
            completion_tokens=tuple(len(c.token_ids) for c in group.completions),
            finish_reasons=tuple(c.finish_reason for c in group.completions),
            sample_s=sample_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRewards:
    """What the reward terms said of every completion of a group.

    Example with two completions and the terms of Empathy-R1:
        terms  = {"format": (1.0, 0.0), "answer": (0.71, 0.40)}     raw, before weights
        weights = {"format": 1.0, "answer": 1.0}                    of the terms in the sum
        totals = (1.71, 0.40)                                        the terms combined
        errors = ((), ("missing",))                                  kinds of schema error, strict reading
        span_tokens = ({"L1": 14, …, "answer": 60}, {})              length of each span, tokens
    A total is None when a term failed on this completion: it is left out of its group's statistics.
    """

    terms: Mapping[str, tuple[float | None, ...]]
    weights: Mapping[str, float]
    totals: tuple[float | None, ...]
    errors: tuple[tuple[str, ...], ...]
    span_tokens: tuple[Mapping[str, int], ...]

    @property
    def spread(self) -> float:
        """Largest minus smallest total of the valid completions."""
        valid = self.valid
        return max(valid) - min(valid) if valid else 0.0

    @property
    def has_spread(self) -> bool:
        """Whether some completion is better than another; rounding of an encoder is no preference."""
        return self.spread > MIN_SPREAD

    @property
    def a_term_has_spread(self) -> bool:
        """Whether some term that counts calls one valid completion better than another."""
        return any(self._has_spread(self.terms[name]) for name, weight in self.weights.items() if weight)

    def _has_spread(self, scores: Sequence[float | None]) -> bool:
        pairs = zip(scores, self.totals, strict=True)
        known = [score for score, total in pairs if score is not None and total is not None]
        return bool(known) and max(known) - min(known) > MIN_SPREAD

    @property
    def valid(self) -> list[float]:
        return [total for total in self.totals if total is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Updated:
    """What the policy trainer did in a step."""

    metrics: dict[str, float]
    busy_s: float
    """Seconds for which its process updated, and copied weights and checkpoints, since the step before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """What the driver takes up again from a checkpoint; empty at a run's first start."""

    driver: dict[str, Any] | None = None
    """Where the prompts and the ledger stood."""
    finished: tuple[RolloutGroup, ...] = ()
    """Groups that waited for the trainer."""
    damaged: tuple[str, ...] = ()
    """What is wrong with each newer checkpoint, which was passed over."""
    notes: tuple[str, ...] = ()
    """What the user should know about how the model is computed."""


def conversation_text(messages: Sequence[Message]) -> str:
    """The conversation as plain text, one message a paragraph (for encoders and measures, never for the policy)."""
    return "\n\n".join(message.content for message in messages)

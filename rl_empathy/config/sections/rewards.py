"""The reward: its terms, one class a kind, and how they become one number."""

from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from rl_empathy.config.sections.section import BrokenRule, Count, Positive, Section

Range = tuple[float, float]
Combiner = Literal["sum"]


class TermConfig(Section):
    """What every term of the reward has."""

    leads: ClassVar[bool] = True
    """Its mean is among the rows with which an evaluation's table begins."""
    named_after: ClassVar[str] = "kind"
    """The key whose last part is its name where none is given."""

    kind: str
    """Which file of `rewards/terms/` computes it."""
    name: str = ""
    """As in the metrics; left out: its kind, or the last part of its function."""
    weight: float = 1.0
    """Its factor in the sum."""
    sees: Literal["answer", "all"] | tuple[str, ...] = "answer"
    """What of a completion it is given: the answer; spans by name; or all, with the text as it was written."""
    clip: Range | None = None
    """Scores below the first number become it, those above the second likewise."""
    deadline_s: Positive = 60.0
    """For one group, seconds: one that takes longer has no score there."""
    retries: Annotated[int, Field(ge=0)] = 2
    """How often a term that raises, or is late, is asked again, after 0.5, 1, 2 … s."""

    @property
    def reward_models(self) -> frozenset[str]:
        """Names of the reward models that it cannot score without."""
        return frozenset()

    @property
    def range(self) -> Range | None:
        """The least and the most that it gives, where that is known."""
        return self.clip

    @property
    def worst(self) -> float | None:
        """The score that adds least to the sum, where that is known."""
        return None if self.range is None else min(self.range, key=lambda score: self.weight * score)

    @property
    def idle(self) -> Mapping[str, str]:
        """Keys that are given and do nothing, each with the reason."""
        return {}

    @model_validator(mode="before")
    @classmethod
    def _has_a_name(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("name"):
            return values
        return values | {"name": str(values.get(cls.named_after, "")).rpartition(".")[2]}

    @field_validator("clip")
    @classmethod
    def _clip_is_a_range(cls, clip: Range | None) -> Range | None:
        if clip is not None and clip[0] >= clip[1]:
            raise ValueError(f"clip is [least, most], got {list(clip)}")
        return clip


class FormatTerm(TermConfig):
    """1 where a completion keeps the schema to the letter and ends, else 0."""

    leads: ClassVar[bool] = False  # schema/valid_fraction is the same
    kind: Literal["format"]

    @property
    def range(self) -> Range:
        return self.clip or (0.0, 1.0)


class EmbeddingTerm(TermConfig):
    """How well the answer fits the post, under the embedding reward model."""

    kind: Literal["embedding"]
    reward_model: str = "reward_modeling"
    """The stage that makes the reward model."""
    mode: Literal["binary", "gated", "raw"] = "raw"
    """raw: the score. gated: 0 below the threshold. binary: 1 from the threshold on, else 0."""
    threshold: float | None = None
    """Left out: where the reward model tells right from wrong answers best."""

    @property
    def reward_models(self) -> frozenset[str]:
        return frozenset({self.reward_model})

    @property
    def idle(self) -> Mapping[str, str]:
        return {"threshold": "its mode is raw"} if self.mode == "raw" and self.threshold is not None else {}

    @property
    def range(self) -> Range:
        return self.clip or (0.0, 1.0)


class OwnTerm(TermConfig):
    """What the run file says of a function of yours."""

    named_after: ClassVar[str] = "function"
    function: str
    """Dotted path, such as my_project.rewards.brevity."""
    arguments: dict[str, JsonValue] = Field(default={})
    """Its further keyword arguments."""


class FunctionTerm(OwnTerm):
    """A function of yours."""

    kind: Literal["function"]


class TrlFunctionTerm(OwnTerm):
    """A reward function written for TRL's GRPOTrainer."""

    kind: Literal["trl_function"]
    sees: Literal["answer", "all"] | tuple[str, ...] = "all"
    """TRL's functions get the whole completion."""
    conversational: bool = False
    """Its prompts and completions are lists of messages, not text."""


class JudgeTerm(TermConfig):
    """What a language model behind an OpenAI-compatible URL says by a rubric."""

    kind: Literal["judge"]
    base_url: str
    """Up to and including /v1."""
    model: str
    """Its name there."""
    api_key_name: str | None = None
    """Name of the environment variable with the key."""
    rubric: str = "empathy"
    """What is judged: a shipped rubric by name, or a text of your own."""
    scale: tuple[int, int] = (1, 5)
    """The lowest and the highest grade; the score is the grade's place between them, from 0 to 1."""
    concurrency: Count = 8
    """Calls at a time."""

    @property
    def range(self) -> Range:
        return self.clip or (0.0, 1.0)


AnyTerm = Annotated[
    FormatTerm | EmbeddingTerm | FunctionTerm | TrlFunctionTerm | JudgeTerm, Field(discriminator="kind")
]


class RewardsConfig(Section):
    """The reward of a completion."""

    terms: Annotated[tuple[AnyTerm, ...], Field(min_length=1)] = (
        FormatTerm(kind="format"),
        EmbeddingTerm(kind="embedding", name="answer"),
    )
    """What is rewarded."""
    combine: Combiner = "sum"
    """How the terms become one number: their weighted sum."""

    @property
    def reward_models(self) -> dict[str, frozenset[str]]:
        """Terms that need reward models, each with their names."""
        return {term.name: term.reward_models for term in self.terms if term.reward_models}

    def left_out(self, reward_models: Collection[str]) -> list[str]:
        """Names of the terms that cannot score with these reward models alone."""
        return [name for name, needed in self.reward_models.items() if not needed <= {*reward_models}]

    def with_only(self, reward_models: Collection[str]) -> "RewardsConfig":
        """The terms that can score with these reward models; there may be none."""
        left_out = self.left_out(reward_models)
        return self.model_copy(
            update={"terms": tuple(term for term in self.terms if term.name not in left_out)}
        )

    def broken_rules(self) -> Iterator[BrokenRule]:
        names = [term.name for term in self.terms]
        if len(set(names)) < len(names):
            again = next(number for number, name in enumerate(names) if name in names[:number])
            yield BrokenRule(
                (f"terms[{again}]",), f"the terms are called {', '.join(names)}: give each a name of its own"
            )

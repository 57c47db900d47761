"""The reward model: every term of the reward with a mailbox."""

import functools
from collections.abc import Callable

from rl_empathy.config.sections import RewardTermConfig
from rl_empathy.engines.embedding import RewardModel as EmbeddingModel
from rl_empathy.engines.embedding import SentenceEncoder
from rl_empathy.observability.memory import own_pulse
from rl_empathy.observability.role_log import divert_output
from rl_empathy.rewards.answer import AnswerReward
from rl_empathy.rewards.form import format_reward
from rl_empathy.rewards.interface import RewardScorer, RewardTerm, load_function
from rl_empathy.schema import OutputSchema
from rl_empathy.types import GroupRewards, Pulse, RolloutGroup

SIMILARITY_TOKENS = 256
"""Longer texts are cut to this for the similarity to the post."""


class RewardModel:
    """Scores whole groups."""

    def __init__(
        self,
        terms: tuple[RewardTermConfig, ...],
        log: str,
        *,
        schema: OutputSchema,
        tokenizer_path: str,
        embedding_path: str | None,
        retries: int,
        have_worked: bool,
        similarity_encoder: str | None = None,
    ) -> None:
        divert_output(log)
        from transformers import AutoTokenizer

        self._schema = schema
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_path)
        decode: Callable[[list[int]], str] = functools.partial(  # type: ignore[assignment]
            tokenizer.decode, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        self._embedding = EmbeddingModel.load(embedding_path) if embedding_path else None
        self._similarity_encoder = similarity_encoder
        self._scorer = RewardScorer(
            schema, [self._term(term) for term in terms], decode, retries=retries, have_worked=have_worked
        )

    def ready(self) -> Pulse:
        """Answer once every term can score: the node it runs on."""
        return own_pulse()

    def score(self, group: RolloutGroup) -> GroupRewards:
        """Score every completion of a group by every term."""
        return self._scorer.score(group)

    def similarity_to_post(self, group: RolloutGroup) -> list[float | None]:
        """Cosine of each answer with the post, by evaluate.similarity_encoder; 0 where there is no answer."""
        if self._similarity_encoder is None:
            return [None] * len(group.completions)
        answers = [
            self._schema.parse(c.text, strict=False).text_of(self._schema.answer) for c in group.completions
        ]
        vectors = self._encoder.encode([group.prompt.row.post, *answers], max_tokens=SIMILARITY_TOKENS)
        cosines = (vectors[1:] @ vectors[0]).tolist()
        return [cosine if answer else 0.0 for cosine, answer in zip(cosines, answers, strict=True)]

    @functools.cached_property
    def _encoder(self) -> SentenceEncoder:
        return SentenceEncoder.load(str(self._similarity_encoder))

    def _term(self, term: RewardTermConfig) -> RewardTerm:
        name = term.name
        if term.function == "format":
            return RewardTerm(name=name, function=format_reward, weight=term.weight)
        if term.function == "answer":
            assert self._embedding is not None, "the run gives a reward model to every run with this term"
            arguments = {"mode": "raw", "threshold": self._embedding.threshold} | term.arguments
            answer = AnswerReward(
                self._embedding.scores,
                self._schema,
                weight=term.weight,
                **arguments,  # type: ignore[arg-type]
            )
            return RewardTerm(name=name, function=answer, weight=term.weight)
        function = functools.partial(load_function(term.function), **term.arguments)  # type: ignore[arg-type]
        return RewardTerm(name=name, function=function, weight=term.weight)

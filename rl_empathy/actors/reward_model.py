"""The reward model: every term of the reward with a mailbox."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from rl_empathy.config.sections import RewardsConfig
from rl_empathy.engines.embedding import RewardModel as EmbeddingModel
from rl_empathy.engines.embedding import SentenceEncoder
from rl_empathy.observability.memory import own_pulse
from rl_empathy.observability.role_log import divert_output
from rl_empathy.rewards.parts import OwnThread, Parts
from rl_empathy.rewards.scoring import RewardScorer, scored_terms
from rl_empathy.schema import OutputSchema
from rl_empathy.types import GroupRewards, Pulse, RolloutGroup

SIMILARITY_TOKENS = 256
"""Longer texts are cut to this for the similarity to the post."""


class RewardModel:
    """Scores whole groups, several at a time: a term that waits for a judge keeps no other group waiting."""

    def __init__(
        self,
        rewards: RewardsConfig,
        log: str,
        *,
        schema: OutputSchema,
        language: Literal["en", "zh"],
        tokenizer_path: str,
        reward_models: Mapping[str, str],
        import_from: Sequence[str],
        replies: str,
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
        parts = Parts(
            language=language,
            import_from=import_from,
            cache=Path(replies),
            reward_models={name: EmbeddingModel.load(folder) for name, folder in reward_models.items()},
        )
        terms = scored_terms(rewards, parts, have_worked=have_worked)
        self._scorer = RewardScorer(schema, terms, decode, combine=rewards.combine)
        self._similarity_encoder = similarity_encoder
        self._thread = OwnThread()

    async def ready(self) -> Pulse:
        """Answer once every term can score: the node it runs on."""
        return own_pulse()

    async def score(self, group: RolloutGroup) -> GroupRewards:
        """Score every completion of a group by every term."""
        return await self._scorer.score(group)

    async def similarity_to_post(self, group: RolloutGroup) -> list[float | None]:
        """Cosine of each answer with the post, by evaluate.similarity_encoder; 0 where there is no answer."""
        if self._similarity_encoder is None:
            return [None] * len(group.completions)
        return await self._thread.run(self._similarities, group)

    def _similarities(self, group: RolloutGroup) -> list[float | None]:
        answers = [
            self._schema.parse(c.text, strict=False).text_of(self._schema.answer) for c in group.completions
        ]
        vectors = self._encoder.encode([group.prompt.row.post, *answers], max_tokens=SIMILARITY_TOKENS)
        cosines = (vectors[1:] @ vectors[0]).tolist()
        return [cosine if answer else 0.0 for cosine, answer in zip(cosines, answers, strict=True)]

    @functools.cached_property
    def _encoder(self) -> SentenceEncoder:
        return SentenceEncoder.load(str(self._similarity_encoder))

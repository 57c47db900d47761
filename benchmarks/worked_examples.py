"""Prompts of a given length: posts of counselling data after worked examples. Not a benchmark itself."""

import bisect
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rl_empathy.data.conversations import prompt_token_ids
from rl_empathy.types import Message, Row

SHORTEST_REPLY = 8
"""Words that the reply of a worked example has at least."""


def prompts_of(tokens: int, rows: Sequence[Row], tokenizer: Any) -> Iterator[list[Message]]:
    """Posts after as many worked examples as bring them to the length; posts that are too long are passed over."""

    def length(messages: Sequence[Message]) -> int:
        return len(prompt_token_ids(tokenizer, messages))

    for number, row in enumerate(rows):
        examples = [other for other in rows if other is not row and other.references]
        random.Random(number).shuffle(examples)
        shown: list[Message] = []
        for example in examples:
            words = example.references[0].text.split()
            fitting = words_that_fit(words, [*shown, example.messages[-1]], row.messages[-1], tokens, length)
            if fitting < SHORTEST_REPLY:
                continue
            reply = Message(role="assistant", content=" ".join(words[:fitting]))
            shown += [example.messages[-1], reply]
            if fitting < len(words):
                yield [*shown, row.messages[-1]]
                break


def words_that_fit(
    words: Sequence[str],
    before: Sequence[Message],
    post: Message,
    tokens: int,
    length: Callable[[Sequence[Message]], int],
) -> int:
    """How many words of an example's reply fit between its post and the one that is to be answered."""

    def with_words(count: int) -> int:
        return length([*before, Message(role="assistant", content=" ".join(words[:count])), post])

    return bisect.bisect_right(range(len(words) + 1), tokens, key=with_words) - 1

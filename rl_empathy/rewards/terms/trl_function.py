"""A reward function that was written for TRL's GRPOTrainer."""

import inspect
from collections.abc import Iterable
from typing import Any

from rl_empathy.config.sections.rewards import TrlFunctionTerm
from rl_empathy.rewards.parts import OwnThread, Parts
from rl_empathy.rewards.view import GroupView
from rl_empathy.user_code import load_function, require_arguments

GIVEN = ("prompts", "completions")


class TrlFunction:
    """Calls function(prompts=…, completions=…, **columns, **arguments), each a list with one entry a completion.

    Columns are id, post, references (their texts), and what the row has in its metadata; `arguments` of the run file
    come besides, as they are. Text, or with `conversational` lists of messages, as in TRL 1.16. Token ids and TRL's
    trainer state are not given.
    """

    def __init__(self, config: TrlFunctionTerm, parts: Parts) -> None:
        self._function = load_function(config.function, import_from=parts.import_from)
        self._arguments = dict(config.arguments)
        self._conversational = config.conversational
        columns = dict.fromkeys(GIVEN) | dict.fromkeys(("id", "post", "references"))
        require_arguments(self._function, config.function, (), columns | self._arguments, rest=True)
        self.blocks = not inspect.iscoroutinefunction(self._function)
        self._thread = OwnThread()

    async def score(self, view: GroupView) -> Iterable[float | None]:
        keywords = self._keywords(view)
        if not self.blocks:
            return await self._function(**keywords)
        return await self._thread.run(self._function, **keywords)

    def _keywords(self, view: GroupView) -> dict[str, Any]:
        messages = [{"role": message.role, "content": message.content} for message in view.row.messages]
        texts = view.texts
        row = view.row
        columns = dict(row.metadata) | {
            "prompts": messages if self._conversational else row.post,
            "id": row.id,
            "post": row.post,
            "references": [reference.text for reference in row.references],
        }
        completions: list[Any] = texts
        if self._conversational:
            completions = [[{"role": "assistant", "content": text}] for text in texts]
        return {name: [value] * len(texts) for name, value in columns.items()} | {
            "completions": completions,
            **self._arguments,
        }

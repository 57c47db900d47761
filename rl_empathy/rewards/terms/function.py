"""A function of the user's."""

import inspect
from collections.abc import Iterable

from rl_empathy.config.sections.rewards import FunctionTerm
from rl_empathy.rewards.parts import OwnThread, Parts
from rl_empathy.rewards.view import GroupView
from rl_empathy.user_code import load_function, require_arguments


class Function:
    """Scores by a function (view, **arguments) -> one number a completion; `async def` works as well.

    Example, a term that wants short answers (my_project/rewards.py, `function: my_project.rewards.brevity`):

        def brevity(view, *, limit: int = 600):
            return [max(0.0, 1 - len(answer) / limit) if answer else 0.0 for answer in view.answers]

    A missing answer gets the least that the term can give, or it would beat a bad one. A function that blocks has a
    thread of its own, and is called for one group at a time.
    """

    def __init__(self, config: FunctionTerm, parts: Parts) -> None:
        self._function = load_function(config.function, import_from=parts.import_from)
        self._arguments = dict(config.arguments)
        require_arguments(self._function, config.function, ["view"], self._arguments)
        self.blocks = not inspect.iscoroutinefunction(self._function)
        self._thread = OwnThread()

    async def score(self, view: GroupView) -> Iterable[float | None]:
        if not self.blocks:
            return await self._function(view, **self._arguments)
        given = await self._thread.run(self._function, view, **self._arguments)
        return await given if inspect.isawaitable(given) else given

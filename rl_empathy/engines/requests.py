"""What is asked of a generation engine, from another thread than its own."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from rl_empathy.config.sections import SamplingConfig
from rl_empathy.errors import RoleDiedError
from rl_empathy.types import PolicyVersion, Prompt, RolloutGroup


@dataclass(eq=False)
class Request:
    """A group to be written, and who waits for it."""

    prompt: Prompt
    sampling: SamplingConfig
    group_size: int
    seed: int
    together: int
    future: "asyncio.Future[RolloutGroup]"
    loop: asyncio.AbstractEventLoop
    admitted: PolicyVersion | None = None

    def resolve(self, result: RolloutGroup | BaseException) -> None:
        def set_on_loop() -> None:
            if self.future.done():
                return
            if isinstance(result, BaseException):
                self.future.set_exception(result)
            else:
                self.future.set_result(result)

        self.loop.call_soon_threadsafe(set_on_loop)


class Command(NamedTuple):
    """Something that the engine's thread does between two steps."""

    run: Callable[[], None]
    fail: Callable[[RoleDiedError], object]
    """Told when the engine ended before it came to the command."""

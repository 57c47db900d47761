"""Several processes that are one role: they compute together, so the loss of one is the loss of all."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ray import ObjectRef
from ray.exceptions import RayTaskError

from rl_empathy.config.sections import DeadlinesConfig
from rl_empathy.errors import RoleDiedError
from rl_empathy.orchestration.fleet.calls import Role
from rl_empathy.orchestration.fleet.restarts import LOST

SETTLE_S = 30.0
"""How long the ranks that are left may take to fail too, before the first failure is told without the others."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The processes of one role, in order of rank."""

    name: str
    roles: Sequence[Role]

    def kill(self) -> None:
        """End every process at once."""
        for role in self.roles:
            role.kill()

    async def load(self, deadlines: DeadlinesConfig) -> None:
        """Have the ranks meet, and load their model."""
        meeting = None
        if len(self.roles) > 1:
            first = self.roles[0]
            meeting = await first.answer(
                first.actor.open_store.remote(), seconds=deadlines.start_s, doing="open a store for its ranks"
            )
        await self.call(
            lambda actor: actor.load.remote(meeting), seconds=deadlines.start_s, doing="load the model"
        )

    async def call(self, make: Callable[[Any], "ObjectRef[Any]"], *, seconds: float, doing: str) -> Any:
        """Call every rank: what rank 0 answers.

        Args:
            make: Calls an actor.
            seconds: Until all have answered.
            doing: What, in a few words.

        Raises:
            RoleDiedError: A rank is gone; the others cannot go on without it.
            RoleTimeoutError: A rank took too long.
            RlEmpathyError: What a rank raised.
        """
        answers = [
            asyncio.ensure_future(role.answer(make(role.actor), seconds=seconds, doing=doing))
            for role in self.roles
        ]
        try:
            done, waiting = await asyncio.wait(answers, return_when=asyncio.FIRST_EXCEPTION)
            if waiting and not any(isinstance(answer.exception(), RoleDiedError) for answer in done):
                # A rank whose partner died fails in a collective, and mostly before Ray notices the death; and one
                # that is late has yet to write where it is.
                await asyncio.wait(waiting, timeout=SETTLE_S)
        finally:
            for answer in answers:
                answer.cancel()
        errors = [e for a in answers if a.done() and not a.cancelled() and (e := a.exception()) is not None]
        if errors:
            raise min(errors, key=_rank_of_cause)
        return answers[0].result()


async def all_or_none(starts: Iterable[Awaitable[Role]]) -> list[Role]:
    """Start roles side by side; when one fails, nothing is left of the others."""
    started = await asyncio.gather(*starts, return_exceptions=True)
    roles = [role for role in started if isinstance(role, Role)]
    for error in started:
        if isinstance(error, BaseException):
            for role in roles:
                role.kill()
            raise error
    return roles


def _rank_of_cause(error: BaseException) -> int:
    """A process that is lost explains what its partners met; and an error of ours says more than one of torch."""
    return 0 if isinstance(error, LOST) else 2 if isinstance(error, RayTaskError) else 1

"""What terms are made of, beside their keys of the run file."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class PairScorer(Protocol):
    """The embedding reward model, see `engines.embedding`."""

    @property
    def threshold(self) -> float: ...

    def scores(self, question: str, answers: Sequence[str]) -> list[float]: ...


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the process that scores has for its terms."""

    language: Literal["en", "zh"]
    import_from: Sequence[str] = ()
    """Folders with modules of the user's functions."""
    cache: Path | None = None
    """Folder for answers that are worth keeping."""
    reward_models: Mapping[str, PairScorer] = field(default_factory=dict)
    """By name."""


class OwnThread:
    """A thread for calls that block, one after the other: what they keep belongs to one thread."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1)

    async def run(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: function(*arguments, **named))

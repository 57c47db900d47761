"""What terms are made of, beside their keys of the run file."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Literal, ParamSpec, Protocol, TypeVar

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
    """A thread for calls that block, one after the other: what they keep belongs to one thread.

    A call that never ends does not keep the process from ending.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._thread = Thread(target=self._work, daemon=True)

    async def run(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        if self._thread.ident is None:
            self._thread.start()
        called: Future[T] = Future()
        self._calls.put((called, partial(function, *arguments, **named)))
        return await asyncio.wrap_future(called)

    def _work(self) -> None:
        while True:
            called, call = self._calls.get()
            if not called.set_running_or_notify_cancel():
                continue
            try:
                called.set_result(call())
            except SystemExit as error:
                called.set_exception(RuntimeError(f"it wants to end the process: SystemExit({error.code!r})"))
            except BaseException as error:
                called.set_exception(error)

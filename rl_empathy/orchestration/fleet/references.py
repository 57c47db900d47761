"""Ray's references to results, heard to their end: Ray prints an error that nobody has asked for."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from ray import ObjectRef


def hear_errors(answer: "ObjectRef[Any]", *others: "ObjectRef[Any]") -> None:
    """Hear the error of a call that returns several objects, also when nobody waits for it any more.

    When the call fails each of its objects holds the error, and Ray prints one that is let go unheard, as if the run
    had failed. An object that holds a value is not fetched.

    Args:
        answer: The first object of the call, which is small.
        *others: The other ones.
    """

    def hear(future: Any) -> None:
        if future.exception() is not None:
            for other in others:
                other.future()

    if isinstance(answer, ObjectRef):
        answer.future().add_done_callback(hear)


def future_of(reference: "Awaitable[Any]") -> "asyncio.Future[Any]":
    """Ask for a result at once, and not when the loop comes to it: a caller that is cancelled before has asked too."""
    if isinstance(reference, ObjectRef):
        return asyncio.wrap_future(reference.future())
    return asyncio.ensure_future(reference)


async def first_of(
    call: "asyncio.Future[Any]",
    pulse: "list[asyncio.Task[None]]",
    ahead: "list[asyncio.Future[Any]]",
    seconds: float,
) -> None:
    """Wait for a call, or for a pulse that ends; the seconds are counted anew whenever a call ahead of it ends."""
    while True:
        ahead = [other for other in ahead if not other.done()]
        waited = (call, *pulse, *ahead)
        await asyncio.wait(waited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if call.done() or any(task.done() for task in pulse) or not any(other.done() for other in ahead):
            return

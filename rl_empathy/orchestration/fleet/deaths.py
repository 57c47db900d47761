"""What Ray raises, as an error of ours: short on the terminal, and whole in the log of the role."""

from contextlib import suppress
from pathlib import Path

from ray.exceptions import ObjectLostError, RayActorError, RayError, RayTaskError

from rl_empathy.errors import ModelError, OutOfMemoryError, PayloadLostError, RlEmpathyError, RoleDiedError
from rl_empathy.observability.memory import first_line, memory_ran_out


def in_our_words(
    error: RayError, *, role: str, doing: str, log: Path, kernel: str | None = None
) -> RlEmpathyError | None:
    """The error of ours that is meant.

    Args:
        error: What Ray raised.
        role: Who was called, and where it is.
        doing: What it was to do.
        log: Log of the role; a notice of Ray, which may have fifty lines, goes there whole.
        kernel: How the kernel ended the process, where it did.

    Returns:
        The error; None: an unexpected one, which the actor's own code raised.
    """
    raised = error.cause if isinstance(error, RayTaskError) else _raised_in_constructor(error)
    if isinstance(raised, RlEmpathyError) and not isinstance(raised, RoleDiedError | ModelError):
        return raised
    if how := memory_ran_out(error) or kernel:
        _keep(error, role, log)
        return OutOfMemoryError(f"{role} ran out of memory while it was to {doing}: {how}. Its log: {log}")
    if isinstance(raised, ModelError):
        return raised
    if isinstance(raised, RoleDiedError):
        return RoleDiedError(f"{role}, to {doing}: {raised}. Its log: {log}")
    if isinstance(lost := raised or error, ObjectLostError):
        return PayloadLostError(f"{role}, to {doing}: {first_line(str(lost))}")
    if isinstance(error, RayTaskError):
        return None
    _keep(error, role, log)
    died = f" died while it was to {doing}" if isinstance(error, RayActorError) else f", to {doing}"
    return RoleDiedError(f"{role}{died}: {_how(error)}. Its log: {log}")


def _keep(error: RayError, role: str, log: Path) -> None:
    if not log.is_absolute():  # a task has none of its own
        return
    with suppress(OSError), log.open("a", encoding="utf-8") as file:
        file.write(f"The end of {role}, as Ray tells it: {error}\n")


def _how(error: RayError) -> str:
    """How a process died, without its numbers and a list of what may have killed it."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    told = next((line for line in lines if line.startswith("The actor is dead because")), None)
    if told is None:
        told = lines[-1] if isinstance(error, RayActorError) else lines[0]
    return first_line(told.split(" Some common causes include")[0]).rstrip(".")


def _raised_in_constructor(error: RayError) -> Exception | None:
    """Ray makes the error of an actor that failed at its start from the task error, and keeps it as an argument."""
    cause = getattr(error.args[0], "cause", None) if error.args else None
    return cause if isinstance(cause, RlEmpathyError) else None

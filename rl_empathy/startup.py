"""What every command does around its work: the environment before, the exit code after."""

import os
import sys
import traceback
from collections.abc import Callable
from errno import EDQUOT, ENOSPC
from pathlib import Path

from rl_empathy.config.run_file import RunFile
from rl_empathy.errors import ResourceError, RlEmpathyError
from rl_empathy.observability.private_files import keep_files_private
from rl_empathy.observability.streams import go_on_unseen

FULL = (os.strerror(ENOSPC), os.strerror(EDQUOT))


def prepare_environment() -> None:
    """Set what Ray and the libraries below read at import; what the user has set stays."""
    defaults = {
        "RAY_TRAIN_V2_ENABLED": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a role without a GPU sees none
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if _has_ray_token():  # Ray's clients leave it unread otherwise, and a cluster that wants it answers 401
        defaults["RAY_AUTH_MODE"] = "token"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def exit_code(command: Callable[[], int | None]) -> int:
    """Run a command, say on stderr what went wrong, and give its exit code.

    What the command writes only its owner may read.

    Returns:
        What the command returned; 130 after Ctrl-C; 2 for a wrong option; the code of an error of ours; 4 for
        any other, with its traceback.
    """
    mask = keep_files_private()
    try:
        return command() or 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        go_on_unseen()
        known = known_error(error)
        if known is not None:
            print(f"{type(known).__name__}: {known}", file=sys.stderr)
            return known.exit_code
        if callable(show := getattr(error, "show", None)):  # a wrong option: typer words it
            show()
            return 2
        traceback.print_exception(error)
        print("unexpected error, exit 4: please report it with the traceback above", file=sys.stderr)
        return 4
    finally:
        os.umask(mask)


def known_error(error: BaseException) -> RlEmpathyError | None:
    """The error of ours that is meant: as it is, out of a Ray task, or the first of a group."""
    cause = getattr(error, "cause", None)
    for found in (cause, error):
        if isinstance(found, RlEmpathyError):
            return found
        # By its text: safetensors, and writers in other processes, raise errors without a number.
        full = [line for line in str(found).splitlines() if any(text in line for text in FULL)]
        if full:
            return ResourceError(
                f"the disk is full: {getattr(found, 'filename', None) or full[-1].strip()}; make room (in /dev/shm, if "
                "it names shared memory), then start the run again: it goes on from its last checkpoint"
            )
    if isinstance(error, BaseExceptionGroup):
        return next((found for inner in error.exceptions if (found := known_error(inner))), None)
    return None


def keep_traceback(run_file: RunFile, error: Exception) -> None:
    """Leave the traceback of an unexpected error with the logs of the run's last attempt, and say where."""
    if known_error(error) is not None:
        return
    logs = Path(run_file.run.directory, run_file.run.name or "").glob("logs/attempt_*")
    for folder in sorted(logs)[-1:]:
        path = folder / "traceback.log"
        try:
            path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        except OSError as unwritten:
            error.add_note(f"its traceback could not be kept: {unwritten}")
            continue
        error.add_note(f"kept in {path}, beside the logs of the roles; the same command resumes the run")


def _has_ray_token() -> bool:
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token").exists()

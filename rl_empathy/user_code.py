"""Functions of the user's, found by their dotted path, and the numbers that they give."""

import difflib
import importlib
import inspect
import math
import os
import reprlib
import sys
import sysconfig
import traceback
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from rl_empathy.errors import ConfigError

_NOT_THE_USERS = (
    f"{Path(__file__).parent}{os.sep}",
    f"{sysconfig.get_path('stdlib')}{os.sep}",
    f"{sysconfig.get_path('purelib')}{os.sep}",
    "<",
)


class NotANumberError(ValueError):
    """A function gave something else than a number; the text says what."""


def load_function(path: str, *, import_from: Sequence[str]) -> Callable[..., Any]:
    """Find a function.

    Args:
        path: Dotted path.
        import_from: Folders that may hold its module, besides those where Python looks.

    Raises:
        ConfigError: There is no such module or function.
    """
    sys.path += [folder for folder in import_from if folder not in sys.path]
    module, _, name = path.rpartition(".")
    if not module:
        raise ConfigError(f"function {path!r} is no dotted path, such as my_project.rewards.brevity")
    try:
        found = importlib.import_module(module)
    except Exception as error:
        looked = ", ".join(dict.fromkeys(import_from)) or "none besides the working directory"
        raise ConfigError(
            f"function {path!r} cannot be loaded ({type(error).__name__}: {error}); folders searched: {looked}"
        ) from error
    if not hasattr(found, name):
        near = difflib.get_close_matches(name, vars(found), n=1)
        hint = (
            f"did you mean {module}.{near[0]}?"
            if near
            else f"it is {getattr(found, '__file__', None) or 'a folder without a module of that name'}"
        )
        raise ConfigError(f"function {path!r} cannot be loaded: {module} has no {name!r}; {hint}")
    function = getattr(found, name)
    if not callable(function):
        raise ConfigError(f"{path!r} is a {type(function).__name__}, which cannot be called")
    return function  # type: ignore[no-any-return]


def require_arguments(
    function: Callable[..., Any],
    path: str,
    given: Sequence[str],
    arguments: Mapping[str, Any],
    *,
    rest: bool = False,
) -> None:
    """Look whether a function takes what it will be given.

    Args:
        function: The function.
        path: Its dotted path.
        given: Names of what it gets by position.
        arguments: What it gets by name.
        rest: It gets more, by names that only the data tells.

    Raises:
        ConfigError: It does not.
    """
    try:
        signature = inspect.signature(function)
    except ValueError:  # written in C
        return
    try:
        (signature.bind_partial if rest else signature.bind)(*given, **arguments)
    except TypeError as error:
        names = ", ".join((*given, *arguments))
        raise ConfigError(f"{path}{signature} does not take what it is given ({names}): {error}") from None


def number_of(item: Any) -> float | None:
    """What a function gave for one completion, or None where it has no value.

    None itself is none, and so are nan, ±inf, and an integer beyond every float.

    Args:
        item: Item of any type; numbers of numpy and torch, and bools, are numbers.

    Raises:
        NotANumberError: It is no number.
    """
    if item is None:
        return None
    if getattr(item, "ndim", None) == 0 and hasattr(item, "item"):
        item = item.item()
    if not isinstance(item, Real):
        raise NotANumberError(f"it gave {shown(item)}")
    try:
        number = float(item)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def shown(value: Any) -> str:
    """The type and the beginning of a value."""
    return f"{reprlib.repr(value)} ({type(value).__name__})"


def raised(error: BaseException) -> str:
    """What a function of the user's raised, and in which line of the user's code."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_NOT_THE_USERS)]
    what = f"{type(error).__name__}: {error}"
    return f"{what} ({own[-1].filename}, line {own[-1].lineno})" if own else what

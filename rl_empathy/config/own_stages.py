"""The functions behind stages of the user's."""

import inspect
from collections.abc import Callable
from typing import Any

from rl_empathy.config.run_file import RunFile
from rl_empathy.config.sections import OwnStageConfig
from rl_empathy.errors import ConfigError
from rl_empathy.user_code import load_function, require_arguments


def stage_function(settings: OwnStageConfig, run_file: RunFile) -> Callable[..., Any]:
    """Find the function of a stage of the user's.

    Raises:
        ConfigError: It is not there, is no `async def`, or does not take its arguments.
    """
    function = load_function(settings.function, import_from=run_file.code_folders)
    if not inspect.iscoroutinefunction(function):
        raise ConfigError(f"stage {settings.name}: {settings.function} must be an async def")
    require_arguments(function, settings.function, ("context", "artifacts"), settings.arguments)
    return function

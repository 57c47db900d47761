"""What several commands read of their arguments: run files, settings, folders."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from rl_empathy.config.loading import read_run_file
from rl_empathy.config.run_file import RunFile
from rl_empathy.config.source import Source
from rl_empathy.errors import ConfigError, ModelError

RUN_CONFIG = "config.yaml"
RUN_FILE_HELP = (
    "A run file, and settings written section.key=value (rl-empathy config --reference lists them)."
)
RunFileOption = Annotated[
    Path | None, typer.Option("--run-file", help="Run file; left out: the run's own config.yaml.")
]


def split(arguments: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Paths and overrides, in any order; a path with = in its name is one if it exists."""
    # os.path, since Path.exists raises when a long setting is no possible name of a file
    overrides = [text for text in arguments if re.match(r"[^/=]*=", text) and not os.path.exists(text)]
    return [Path(text) for text in arguments if text not in overrides], overrides


def read_one(arguments: Sequence[str]) -> tuple[RunFile, Source]:
    """The one run file of some arguments, with its settings, and where each value comes from."""
    paths, overrides = split(arguments)
    if len(paths) != 1:
        given = ", ".join(map(str, paths)) or "none"
        raise ConfigError(f"give one run file (RUN.yaml), got {given}; a setting is section.key=value")
    return read_run_file(paths[0], overrides)


def require_folder(path: Path) -> None:
    """Refuse what is neither a run directory nor a model folder.

    Raises:
        ModelError: It is not.
    """
    if not path.is_dir():
        where = "" if path.is_absolute() else f" (looked from {Path.cwd()})"
        raise ModelError(f"{path} is no folder{where}; give a run directory or a model folder")
    if not (path / RUN_CONFIG).exists() and not (path / "config.json").exists():
        raise ModelError(f"{path} is no run directory (no {RUN_CONFIG}) and no model folder (no config.json)")

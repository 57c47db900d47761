"""What an earlier attempt left in a run directory, and what becomes of it."""

from datetime import UTC, datetime
from pathlib import Path

from rl_empathy.config.changes import Reopened, refused_changes, reopened, require_same_base
from rl_empathy.config.loading import load_run_file
from rl_empathy.config.run_file import RunFile
from rl_empathy.config.stage_table import folder_of, stages_that_give
from rl_empathy.errors import ConfigError, RunDirectoryError
from rl_empathy.observability.run_lock import RunLock

CONFIG, RESULT, TRAINED_WITH = "config.yaml", "result.json", "trained_with.yaml"
_OWN_NAMES = {".lock", f".{CONFIG}.tmp", "logs"}


def take_directory(path: Path, *, fresh: bool) -> RunLock:
    """Create the directory where it is missing, and lock it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if fresh and path.exists():
        _require_run_directory(path)
        old = RunLock.take(path)
        try:
            path.rename(set_aside_name(path))
        finally:
            old.release()
    if path.exists():
        _require_run_directory(path)
    path.mkdir(mode=0o700, exist_ok=True)
    path.chmod(0o700)
    return RunLock.take(path)


def _require_run_directory(path: Path) -> None:
    if not path.is_dir():
        raise RunDirectoryError(f"{path} is a file; choose another run.name or run.directory")
    strangers = sorted(entry.name for entry in path.iterdir() if entry.name not in _OWN_NAMES)
    if strangers and not (path / CONFIG).exists():
        raise RunDirectoryError(
            f"{path} is not a run directory: it has {strangers[0]} but no {CONFIG}; "
            "choose another run.name or run.directory"
        )


def set_aside_name(path: Path) -> Path:
    name = f"{path.name}.set-aside-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    candidates = (path.with_name(name + suffix) for suffix in ("", *(f"-{n}" for n in range(2, 1000))))
    return next(candidate for candidate in candidates if not candidate.exists())


def config_before(path: Path, run_file: RunFile, *, allow_config_change: bool) -> RunFile | None:
    """The configuration of the attempt before; None when there was none, or one that cannot be read and need not."""
    if not (path / CONFIG).exists():
        return None
    ways = (
        "start with --allow-config-change to go on with the new one, with --fresh to begin anew (what is "
        "there is set aside), or under another run.name"
    )
    try:
        before = load_run_file(path / CONFIG, check_paths=False)
    except ConfigError as error:
        if allow_config_change:
            return None
        text = f"the configuration of run {run_file.run.name} cannot be read: {error}\n{ways}"
        raise RunDirectoryError(text) from None
    changed = refused_changes(before, run_file)
    if changed and not allow_config_change:
        lines = [f"  {line}" for line in changed]
        headline = f"run {run_file.run.name} in {path} was started with another configuration (old -> new)"
        raise RunDirectoryError("\n".join([headline, *lines, ways]))
    return before


def _has_trained(path: Path, before: RunFile) -> bool:
    """Whether a stage has trained the starting model: a local one stays where it is, and leaves no folder `base`."""
    folders = [path / folder_of(stage) for stage in stages_that_give(before, "policy")]
    return any((folder / RESULT).exists() or any(folder.glob("step_*")) for folder in folders)


def what_is_reopened(path: Path, before: RunFile, run_file: RunFile) -> Reopened:
    """What becomes of the stages that are there; nothing is changed yet."""
    folders = {stage: path / folder_of(stage) for stage in run_file.run.stages}
    if (path / "base" / "config.json").exists() or _has_trained(path, before):
        require_same_base(before, run_file)
    trained = {
        stage: load_run_file(folder / TRAINED_WITH, check_paths=False)
        if (folder / TRAINED_WITH).exists()
        else before
        for stage, folder in folders.items()
        if folder.exists()
    }
    finished = {stage for stage, folder in folders.items() if (folder / RESULT).exists()}
    return reopened(run_file, trained, finished)

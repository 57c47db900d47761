"""A run that goes on with another configuration: what may differ, and what becomes of stages that are finished."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from rl_empathy.config.loading import difference
from rl_empathy.config.run_file import RunFile
from rl_empathy.config.stage_table import inputs_of, stage_of
from rl_empathy.errors import RunDirectoryError

_FREE = (
    "run.name:",
    "run.directory:",
    "logging.",
    "serve.",
    "reward_modeling.accept_echo:",
    "run.import_from:",
)
_FREE_CLUSTER = ("cluster.",)
_FREE_CLUSTER_IF_DETERMINISTIC = ("cluster.address:", "cluster.deadlines.", "cluster.restarts.")
_BASE = ("model.", "schema")
"""What the starting model is made of, and how every stage talks to it."""
_SHARED = ("run.seed:", "run.deterministic:", "data.")
"""Besides its own section, what every stage depends on."""
_LENGTH = "num_steps"


def refused_changes(before: RunFile, now: RunFile) -> list[str]:
    """Differences that change what is computed, which a resume refuses unless it is told to go on with them."""
    free = (*_FREE, *(_FREE_CLUSTER_IF_DETERMINISTIC if now.run.deterministic else _FREE_CLUSTER))
    return [line for line in difference(before, now) if not line.startswith(free)]


@dataclass(frozen=True, kw_only=True)
class Reopened:
    """What becomes of the stages of a run whose configuration has changed."""

    goes_on: tuple[str, ...] = ()
    """Finished, and trained further from their last checkpoint."""
    set_aside: tuple[str, ...] = ()
    """Finished or begun with the model of a stage that is trained further: set aside, and begun anew."""
    again: tuple[str, ...] = ()
    """Measured again."""
    told: tuple[str, ...] = ()
    """All this in words, a line each."""


def reopened(now: RunFile, trained: Mapping[str, RunFile], finished: Collection[str]) -> Reopened:
    """Decide for every stage that is there whether it stays, is trained further, or is done again.

    Args:
        now: The run file.
        trained: For every stage that has left something, the run file that it was last trained with.
        finished: Those of them that are.

    Raises:
        RunDirectoryError: The run file asks for a training that would not happen.
    """
    goes_on: dict[str, str] = {}
    stays: dict[str, list[str]] = {}
    made = [stage for stage in now.run.stages if stage in trained and stage_of(now, stage).gives]
    for stage in made:
        lines = difference(trained[stage], now)
        _require_same_inputs(stage, trained[stage], now)
        keys = stage_of(now, stage).keys
        mine = [line for line in lines if line.startswith(keys) and not line.startswith(_FREE)]
        own = mine if stage in finished else []
        if own and _only_grows(stage, trained[stage], now, own):
            goes_on[stage] = own[0]
        elif own:
            raise RunDirectoryError(_would_not_happen(f"stage {stage}", own))
        elif stage in finished and (shared := [line for line in lines if line.startswith(_SHARED)]):
            stays[stage] = shared
    if stays and not goes_on and all(s in finished for s in now.run.stages if stage_of(now, s).gives):
        lines = [line for shared in stays.values() for line in shared]
        raise RunDirectoryError(_would_not_happen("every stage", list(dict.fromkeys(lines))))
    set_aside = tuple(stage for stage in made if {*inputs_of(now, stage)} & goes_on.keys())
    again = tuple(
        stage
        for stage in now.run.stages
        if stage in finished
        and not stage_of(now, stage).gives
        and (goes_on or _measures_other(stage, trained[stage], now))
    )
    further = {stage: line for stage, line in goes_on.items() if stage not in set_aside}
    told = (
        *(f"stage {s} is trained further from its last checkpoint: {line}" for s, line in further.items()),
        *(f"stage {s} is finished and stays as it was trained: {lines[0]}" for s, lines in stays.items()),
        *(
            f"stage {s} is set aside and begun anew: the model that it took is trained further"
            for s in set_aside
        ),
        *(f"stage {s} is done again" for s in again),
    )
    return Reopened(goes_on=tuple(further), set_aside=set_aside, again=again, told=told)


def require_same_base(before: RunFile, now: RunFile) -> None:
    """Refuse another starting model where the run has made or found one.

    Raises:
        RunDirectoryError: Sections model or schema differ.
    """
    if lines := [line for line in difference(before, now) if line.startswith(_BASE)]:
        raise RunDirectoryError(_would_not_happen("the starting model", lines))


def require_steps_to_come(stage: str, done: int, wanted: int) -> None:
    """Refuse a stage that has trained for more steps than the run file says.

    Raises:
        RunDirectoryError: It has.
    """
    if done > wanted:
        raise RunDirectoryError(
            f"stage {stage} has trained for {done} steps already, and {stage}.{_LENGTH} asks for {wanted}; ask for "
            f"{done} or more, or begin anew with --fresh or another run.name"
        )


def _only_grows(stage: str, before: RunFile, now: RunFile, own: list[str]) -> bool:
    if len(own) > 1 or not own[0].startswith(f"{stage}.{_LENGTH}:"):
        return False
    old, new = (getattr(getattr(run_file, stage), _LENGTH) for run_file in (before, now))
    return bool(old and new and new > old)


def _require_same_inputs(stage: str, before: RunFile, now: RunFile) -> None:
    old, new = (_inputs(run_file, stage) for run_file in (before, now))
    if old != new:
        after = ", ".join(old) or "no other stage"
        line = f"run.stages: {list(before.run.stages)} -> {list(now.run.stages)}"
        raise RunDirectoryError(_would_not_happen(f"stage {stage}", [line, f"it was trained after {after}"]))


def _measures_other(stage: str, before: RunFile, now: RunFile) -> bool:
    measured_by = (*stage_of(now, stage).keys, *_SHARED, *_BASE)
    changed = any(line.startswith(measured_by) for line in difference(before, now))
    return changed or _inputs(before, stage) != _inputs(now, stage)


def _inputs(run_file: RunFile, stage: str) -> list[str]:
    """As `inputs_of`; none where the stage is not among the run file's."""
    return inputs_of(run_file, stage) if stage in run_file.run.stages else []


def _would_not_happen(what: str, lines: list[str]) -> str:
    listed = "\n".join(f"  {line}" for line in lines)
    return (
        f"{what} is there, and would not be trained with what has changed since (old -> new):\n{listed}\n"
        "take the change back, or begin anew with --fresh (what is there is set aside) or under another run.name; "
        f"of a finished stage only {_LENGTH} may grow, with --allow-config-change"
    )

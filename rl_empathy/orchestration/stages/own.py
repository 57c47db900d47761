"""A stage of the user's: a function that run.own_stages names."""

from pathlib import Path

from rl_empathy.config.own_stages import stage_function
from rl_empathy.errors import Stopped, TrainingError
from rl_empathy.orchestration.context import RunContext
from rl_empathy.orchestration.stages.artifacts import Artifacts, Made


async def run(name: str, context: RunContext, artifacts: Artifacts) -> Made:
    """Call the function, which is cancelled where the run is asked to stop, and begun anew by the next start.

    Raises:
        TrainingError: It gave no model folder where it should have.
        Stopped: The run was asked to stop.
    """
    [settings] = [own for own in context.run_file.run.own_stages if own.name == name]
    function = stage_function(settings, context.run_file)
    context.log.cut_back(name, -1)
    context.progress.stage_started(name, num_steps=1)
    made = await context.stop.unless_set(function(context, artifacts, **settings.arguments))
    if context.stop.is_set:
        raise Stopped(f"stopped in stage {name}, which begins anew; the same command goes on")
    context.progress.stage_finished(name, "")
    if settings.gives is None:
        return Made()
    if not (isinstance(made, Path) and (made / "config.json").is_file()):
        raise TrainingError(
            f"stage {name} gives a {settings.gives.replace('_', ' ')}, so {settings.function} must return the folder "
            f"with it (a Path with a config.json), and returned {made!r}"
        )
    return Made(model=made.absolute())

"""A stage of the user's: a function that run.own_stages names."""

from pathlib import Path

from rl_empathy.config.own_stages import stage_function
from rl_empathy.config.sections import OwnStageConfig
from rl_empathy.errors import Stopped, TrainingError
from rl_empathy.orchestration.context import RunContext
from rl_empathy.orchestration.stages.artifacts import Artifacts, Made


async def run(name: str, context: RunContext, artifacts: Artifacts) -> Made:
    """Call the function, for as long as it takes. A stop cancels it, and the next start begins it anew.

    Raises:
        TrainingError: It gave no model folder where it should have.
        Stopped: The run was asked to stop before it had ended.
    """
    [settings] = [own for own in context.run_file.run.own_stages if own.name == name]
    context.log.cut_back(name, -1)
    context.progress.stage_started(name, num_steps=1)
    made = await context.stop.unless_set(_made(settings, context, artifacts))
    if made is None:
        raise Stopped(f"stopped in stage {name}, which begins anew; the same command goes on")
    context.progress.stage_finished(name, "")
    return made


async def _made(settings: OwnStageConfig, context: RunContext, artifacts: Artifacts) -> Made:
    function = stage_function(settings, context.run_file)
    folder = await function(context, artifacts, **settings.arguments)
    if settings.gives is None:
        return Made()
    if not (isinstance(folder, Path) and (folder / "config.json").is_file()):
        raise TrainingError(
            f"stage {settings.name} gives a {settings.gives.replace('_', ' ')}, so {settings.function} must return the "
            f"folder with it (a Path with a config.json), and returned {folder!r}"
        )
    return Made(model=folder.absolute())

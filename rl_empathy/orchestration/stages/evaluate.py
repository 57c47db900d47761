"""Stage evaluate: every model of the run answers the held-out prompts."""

from rl_empathy.errors import Stopped
from rl_empathy.orchestration.context import RunContext
from rl_empathy.orchestration.evaluated_models import models_of_run
from rl_empathy.orchestration.evaluation import asked_models, run_evaluation
from rl_empathy.orchestration.stages.artifacts import Artifacts, Made


async def run(context: RunContext, artifacts: Artifacts) -> Made:
    """Compare the policies.

    Raises:
        Stopped: The run was asked to stop; the stage begins anew.
    """
    context.log.cut_back("evaluate", -1)
    asked = asked_models(context, models_of_run(context.run_file, artifacts.policies))
    path = await context.stop.unless_set(run_evaluation(context, asked, artifacts.reward_models))
    if path is None:
        raise Stopped("stopped in stage evaluate, which begins anew; the same command goes on")
    return Made(facts={"evaluation": str(path.relative_to(context.directory.path))})

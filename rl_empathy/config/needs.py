"""What a run needs of its stages: refused before anything starts, with the stage that would give it."""

from collections.abc import Iterator

from rl_empathy.config.problems import refusal, rule_problem
from rl_empathy.config.run_file import RunFile
from rl_empathy.config.sections.section import BrokenRule
from rl_empathy.config.source import Source
from rl_empathy.config.stage_table import inputs_of, stage_of, stages_that_give


def require_what_stages_need(run_file: RunFile, source: Source) -> None:
    """Look whether the stages of a run file are given what they take.

    Raises:
        ConfigError: Stages need something that no stage before them makes; with all that lacks, and its lines.
    """
    if problems := [rule_problem((), rule, source) for rule in _lacking(run_file)]:
        raise refusal(problems)


def _lacking(run_file: RunFile) -> Iterator[BrokenRule]:
    stages = run_file.run.stages
    numbers = {term.name: number for number, term in enumerate(run_file.rewards.terms)}
    for name in stages:
        stage, inputs = stage_of(run_file, name), inputs_of(run_file, name)
        given = {stage_of(run_file, other).gives for other in inputs} | {"policy"}
        for artifact in sorted(stage.needs - given):
            givers = " or ".join(stages_that_give(run_file, artifact))
            yield BrokenRule(
                ("run.stages",),
                f"stage {name} needs a {artifact.replace('_', ' ')}, but run.stages ({', '.join(stages)}) has no stage "
                f"{givers} before {name}; add it",
            )
        for term, models in run_file.rewards.reward_models.items() if stage.rewards else ():
            for model in sorted(models - {*inputs}):
                yield BrokenRule(
                    ("run.stages", f"rewards.terms[{numbers[term]}]"),
                    f"the reward term {term} needs the reward model of stage {model}, but run.stages "
                    f"({', '.join(stages)}) has no stage {model} before {name}; add it, or leave the term out of "
                    "rewards.terms",
                )

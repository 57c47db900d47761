"""Engines that sleep: every role as a real Ray actor behind the real fleet, without a model. Not a benchmark itself.

workload          the prompts, the time that each group takes, and the waits that no loop can avoid
actors            one class a role, which sleeps in the place of its engine
shared_process    several workers in one process
run               the real fleet and loop on these actors, and Ray on this machine

A benchmark imports this package as `sleeping`, a test as `benchmarks.sleeping`. Ray's processes import it under the
name that their driver uses. So imports within the package are relative: they work under both names.
"""

from .actors import SLEEPERS, EqualRewards, NoLogprobs, SleepingTrainer, SleepingWorker
from .run import SleepingRun, local_ray, say
from .shared_process import NumberedRole
from .workload import Lengths, ideal_waits_s, prompt_stream

__all__ = [
    "SLEEPERS",
    "EqualRewards",
    "Lengths",
    "NoLogprobs",
    "NumberedRole",
    "SleepingRun",
    "SleepingTrainer",
    "SleepingWorker",
    "ideal_waits_s",
    "local_ray",
    "prompt_stream",
    "say",
]

"""The rollout workers: one state machine, who is there, who comes and goes, which weights they hold, who samples what.

states            whether a worker may serve: the states and events in one table
worker            one process in the place of a rollout worker
attendance        which workers there are, and waiting for them
roster            they are lost and replaced, added and taken away
refits            which weights they hold
rollout_workers   all of them seen as one
"""

from rl_empathy.orchestration.fleet.workers.rollout_workers import RolloutWorkers

__all__ = ["RolloutWorkers"]

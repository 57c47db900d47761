"""Typed handles over the actors: one object a role, however many processes.

In training actors are reached from this folder only.

calls             a call to an actor or a task, which always ends
deaths            what Ray raises, as an error of ours
group_handle      a group as the driver sees it: the header here, the payload where it was made
loads             how rollout workers get weights
ranks             several processes that are one role
restarts          roles that die are started anew, within a budget
savings           what is halved when a role runs out of memory
workers           the rollout workers: their states, who is there, which weights they hold
scorers           the reward model and the reference model
policy_trainer    the policy trainer, and the version it holds
tracker           W&B beside the run
fleet             all of them, as the loop gets them

A rollout comes back as a small header and a payload that stays in the object store. The driver owns both, so the
payload outlives its maker, and passes it on by reference.
"""

from rl_empathy.orchestration.fleet.fleet import Fleet
from rl_empathy.orchestration.fleet.group_handle import GroupHandle
from rl_empathy.orchestration.fleet.policy_trainer import PolicyTrainerHandle
from rl_empathy.orchestration.fleet.restarts import RestartableRole, RestartBudget
from rl_empathy.orchestration.fleet.savings import Savings
from rl_empathy.orchestration.fleet.scorers import (
    NoReferenceModel,
    ReferenceModelHandle,
    RewardModelHandle,
    ShuffledRewards,
)
from rl_empathy.orchestration.fleet.tracker import TrackerHandle
from rl_empathy.orchestration.fleet.workers import RolloutWorkers

__all__ = [
    "Fleet",
    "GroupHandle",
    "NoReferenceModel",
    "PolicyTrainerHandle",
    "ReferenceModelHandle",
    "RestartBudget",
    "RestartableRole",
    "RewardModelHandle",
    "RolloutWorkers",
    "Savings",
    "ShuffledRewards",
    "TrackerHandle",
]

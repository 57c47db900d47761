"""The sections of a run file. Every default is the vetted setting: a run file says only what differs.

Attribute docstrings name the unit; `rl-empathy config --reference` prints them.

section   the base class of all sections, and the number types
run       run, logging: the run's name, its stages and yours, and what is recorded of it
model     model: what the run starts from
data      data: the counselling text
rewards   rewards: the terms of the reward, a class a kind
stages    sft, reward_modeling, grpo, evaluate, with optimizer and sampling
cluster   cluster: resources of the roles, and deadlines
serve     serve: the endpoint
"""

from rl_empathy.config.sections.cluster import (
    ClusterConfig,
    DeadlinesConfig,
    PolicyTrainerConfig,
    RestartsConfig,
    RoleConfig,
    RolloutWorkersConfig,
    StageWorkerConfig,
)
from rl_empathy.config.sections.data import ColumnsConfig, DataConfig
from rl_empathy.config.sections.model import FromScratchConfig, ModelConfig
from rl_empathy.config.sections.rewards import RewardsConfig, TermConfig
from rl_empathy.config.sections.run import Artifact, LoggingConfig, OwnStageConfig, RunConfig
from rl_empathy.config.sections.section import Section
from rl_empathy.config.sections.serve import ServeConfig
from rl_empathy.config.sections.stages import (
    EvaluateConfig,
    EvaluationSamplingConfig,
    GRPOConfig,
    OptimizerConfig,
    OwnMeasureConfig,
    RewardModelingConfig,
    SamplingConfig,
    SFTConfig,
)

__all__ = [
    "Artifact",
    "ClusterConfig",
    "ColumnsConfig",
    "DataConfig",
    "DeadlinesConfig",
    "EvaluateConfig",
    "EvaluationSamplingConfig",
    "FromScratchConfig",
    "GRPOConfig",
    "LoggingConfig",
    "ModelConfig",
    "OptimizerConfig",
    "OwnMeasureConfig",
    "OwnStageConfig",
    "PolicyTrainerConfig",
    "RestartsConfig",
    "RewardModelingConfig",
    "RewardsConfig",
    "RoleConfig",
    "RolloutWorkersConfig",
    "RunConfig",
    "SFTConfig",
    "SamplingConfig",
    "Section",
    "ServeConfig",
    "StageWorkerConfig",
    "TermConfig",
]

"""A Ray cluster that has what the plan needs."""

import logging
import math
import os

import ray

from rl_empathy.actors.local_ray import start_local_ray
from rl_empathy.config.plan import Plan
from rl_empathy.config.sections import ClusterConfig
from rl_empathy.errors import ResourceError


def join_cluster(config: ClusterConfig, plan: Plan) -> None:
    """Connect to Ray, or start it here, and compare what it has with what the plan needs.

    Args:
        config: Section cluster.
        plan: Of the run.

    Raises:
        ResourceError: The cluster has fewer CPUs or GPUs than the plan needs; the text names both.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not ray.is_initialized():
        _connect(config, plan)
    have = ray.cluster_resources()
    lacking = [
        f"{wanted:g} {kind}s, of which the cluster has {have.get(kind, 0):g}"
        for kind, wanted in (("CPU", plan.total_cpus), ("GPU", plan.total_gpus))
        if have.get(kind, 0) < wanted
    ]
    if lacking:
        raise ResourceError(
            f"the run needs {' and '.join(lacking)}. Lower cluster.*.num_cpus or rollout_workers.min, raise "
            f"cluster.num_cpus (logical CPUs of a local cluster), or add nodes. The plan:\n{plan}"
        )


def _connect(config: ClusterConfig, plan: Plan) -> None:
    joins = config.address not in ("auto", "local") or (
        config.address == "auto" and "RAY_ADDRESS" in os.environ
    )
    if not joins:
        workers = config.rollout_workers
        more = ((workers.max or workers.min) - workers.min) * workers.num_cpus
        start_local_ray(config.num_cpus or math.ceil(plan.total_cpus + more), logging_level=logging.ERROR)
        return
    try:
        ray.init(address=config.address, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise ResourceError(
            f"no Ray cluster answers at cluster.address {config.address} "
            f"(RAY_ADDRESS {os.environ.get('RAY_ADDRESS', 'not set')}): {error}"
        ) from error

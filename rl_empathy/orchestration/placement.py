"""A Ray cluster that has what the plan needs."""

import asyncio
import logging
import math
import os
from collections.abc import Callable, Sequence

import ray
from ray.autoscaler.sdk import request_resources
from tenacity import AsyncRetrying, retry_if_result, stop_after_delay, wait_fixed

from rl_empathy.actors.cluster_address import is_local, join_ray, require_open
from rl_empathy.actors.local_ray import start_local_ray
from rl_empathy.config.plan import Plan, RolePlan
from rl_empathy.config.sections import ClusterConfig
from rl_empathy.errors import ResourceError
from rl_empathy.observability.memory import machine_bytes

LOOK_S = 2.0
"""How often one looks whether nodes have come."""


def join_cluster(config: ClusterConfig, plan: Plan) -> bool:
    """Connect to Ray, or start it here.

    Returns:
        Whether the cluster is not ours, so that nodes may come.

    Raises:
        ResourceError: No cluster that can be joined is where one should be.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if ray.is_initialized():
        return True
    if is_local(config.address):
        workers = config.rollout_workers
        more = ((workers.max or workers.min) - workers.min) * workers.num_cpus
        start_local_ray(config.num_cpus or math.ceil(plan.total_cpus + more), logging_level=logging.ERROR)
        return False
    join_ray(config.address, logging_level=logging.ERROR)
    return True


async def find_room(
    config: ClusterConfig, plan: Plan, *, may_grow: bool, tell: Callable[[str], None]
) -> None:
    """Compare what the cluster has with what the plan needs.

    A cluster that was joined may grow: its autoscaler is asked for what lacks, and has
    `cluster.deadlines.nodes_s` for it.

    Args:
        config: Section cluster.
        plan: Plan of the run.
        may_grow: What `join_cluster` returned.
        tell: Told when the run waits for nodes.

    Raises:
        ResourceError: The cluster has fewer CPUs or GPUs, or less memory than the plan needs; the text names both.
    """
    lacking = await _lacking(plan)
    if lacking and may_grow and config.deadlines.nodes_s:
        tell(
            f"the run needs {' and '.join(lacking)}: waiting up to {config.deadlines.nodes_s:g} s for nodes "
            "(cluster.deadlines.nodes_s)"
        )
        lacking = await _wait_for_nodes(plan, config.deadlines.nodes_s)
    if lacking:
        raise ResourceError(plan.refusal(lacking))
    fits, text = plan.memory_text(*await asyncio.to_thread(_memory, joined=may_grow))
    if not fits:
        raise ResourceError(f"{text}. The plan:\n{plan}")
    if text:
        tell(text)


def look_at_cluster(config: ClusterConfig, plan: Plan) -> list[str]:
    """Join a cluster, compare it with the plan, and leave it; nothing is started there.

    Returns:
        What there is, and what the run would wait for, a line each.

    Raises:
        ResourceError: It cannot be joined, or has less than the plan needs and no time to grow.
    """
    require_open(config.address)
    join_cluster(config, plan)
    try:
        have, lacking = ray.cluster_resources(), asyncio.run(_lacking(plan))
        fits, text = plan.memory_text(*_memory(joined=True))
    finally:
        ray.shutdown()
    lines = [f"the cluster has {have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs", text]
    if lacking and config.deadlines.nodes_s:
        lines.append(
            f"it lacks {' and '.join(lacking)}: the run would wait up to {config.deadlines.nodes_s:g} s for nodes "
            "(cluster.deadlines.nodes_s)"
        )
    elif lacking or not fits:
        raise ResourceError("; ".join(filter(None, [*lacking, text])))
    return [line for line in lines if line]


def demand(plan: Plan) -> tuple[int, list[dict[str, float]]]:
    """What an autoscaler is asked for: CPUs anywhere, and bundles that each have to fit on one node.

    The bundles are the roles that want most GPUs at once; the CPUs are what another stage, and the driver, want more.
    """
    at_once = [roles for stage in plan.stages for roles in (stage.roles, stage.afterwards)]

    def size(roles: Sequence[RolePlan]) -> tuple[float, float]:
        return sum(r.instances * r.num_gpus for r in roles), sum(r.instances * r.num_cpus for r in roles)

    roles = max(at_once, key=size)
    bundles = [{"CPU": r.num_cpus, "GPU": r.num_gpus} for r in roles for _ in range(r.instances)]
    return math.ceil(plan.total_cpus - size(roles)[1]), bundles


async def _lacking(plan: Plan) -> list[str]:
    # On a thread: a stop is to be heard when Ray's control store is slow to answer.
    have = await asyncio.to_thread(ray.cluster_resources)
    return [
        f"{wanted:g} {kind}s, of which the cluster has {have.get(kind, 0):g}"
        for kind, wanted in (("CPU", plan.total_cpus), ("GPU", plan.total_gpus))
        if have.get(kind, 0) < wanted
    ]


def _memory(*, joined: bool) -> tuple[int, str]:
    """What memory there is, bytes, and where."""
    if not joined:
        return machine_bytes(), "this machine"
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    there_is = sum(node.get("memory", 0) + node.get("object_store_memory", 0) for node in nodes)
    return int(there_is), f"the cluster's {len(nodes)} nodes"


async def _wait_for_nodes(plan: Plan, seconds: float) -> list[str]:
    """Ask the autoscaler, if there is one, for what the plan needs: what lacks in the end."""
    num_cpus, bundles = demand(plan)
    request_resources(num_cpus=num_cpus, bundles=bundles)
    waiting = AsyncRetrying(
        stop=stop_after_delay(seconds),
        wait=wait_fixed(LOOK_S),
        retry=retry_if_result(bool),
        retry_error_callback=lambda state: state.outcome and state.outcome.result(),
    )
    try:
        return await waiting(_lacking, plan)
    finally:
        request_resources(bundles=[])  # a driver that is killed must not hold nodes for ever

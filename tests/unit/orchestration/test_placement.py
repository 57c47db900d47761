"""Joining a cluster, and what its autoscaler is asked for."""

import asyncio
from pathlib import Path

import pytest

import rl_empathy
from rl_empathy.actors.cluster_address import is_local
from rl_empathy.config.plan import Plan, RolePlan, StagePlan
from rl_empathy.config.sections import ClusterConfig
from rl_empathy.errors import ResourceError
from rl_empathy.observability.memory import GIB
from rl_empathy.orchestration import placement
from rl_empathy.orchestration.placement import demand, find_room, join_cluster


def role(instances: int, num_cpus: float, num_gpus: float = 0) -> RolePlan:
    return RolePlan(role="any", instances=instances, num_cpus=num_cpus, num_gpus=num_gpus, memory=None)


def plan(*stages: StagePlan) -> Plan:
    return Plan(run="r", directory="runs/r", model="m", parameters=None, stages=stages)


def stage(*roles: RolePlan, afterwards: tuple[RolePlan, ...] = ()) -> StagePlan:
    return StagePlan(stage="grpo", steps=1, work="trains", roles=roles, afterwards=afterwards)


def test_every_role_of_the_hungriest_moment_is_asked_for_and_one_cpu_for_the_driver():
    one = plan(stage(role(1, 1)), stage(role(2, 4, 1), role(1, 1)))
    assert demand(one) == (1, [{"CPU": 4, "GPU": 1}, {"CPU": 4, "GPU": 1}, {"CPU": 1, "GPU": 0}])


def test_roles_that_take_their_place_at_a_stages_end_count():
    """1 CPU while it trains, then four workers of 2: with the driver 9."""
    assert demand(plan(stage(role(1, 1), afterwards=(role(4, 2),)))) == (1, [{"CPU": 2, "GPU": 0}] * 4)


def test_a_stage_that_wants_more_cpus_than_the_one_with_gpus_is_not_forgotten():
    """The GPU comes with 2 CPUs; the other stage wants 16, so 14 more, and the driver's."""
    assert demand(plan(stage(role(1, 2, 1)), stage(role(8, 2)))) == (15, [{"CPU": 2, "GPU": 1}])


@pytest.mark.parametrize(("there_is_gib", "fits"), [(16, True), (4, False)])
def test_a_run_starts_only_where_its_plan_has_room_in_memory(there_is_gib, fits, monkeypatch):
    """Three roles of 2 GiB, and 0.7 for Ray."""
    told: list[str] = []
    hungry = RolePlan(role="any", instances=3, num_cpus=1, num_gpus=0, memory={"weights": 2 * GIB})
    monkeypatch.setattr(placement.ray, "cluster_resources", lambda: {"CPU": 8})
    monkeypatch.setattr(placement, "machine_bytes", lambda: there_is_gib * GIB)
    room = find_room(ClusterConfig(), plan(stage(hungry)), may_grow=False, tell=told.append)
    if fits:
        asyncio.run(room)
        assert told[0].startswith("stage grpo takes about 6.7 of the 16.0 GiB of memory of this machine")
    else:
        with pytest.raises(ResourceError, match=r"6\.7 of the 4\.0 GiB .*too much"):
            asyncio.run(room)


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "myhost"])
def test_what_is_no_address_of_a_cluster_is_said_and_no_traceback(address, monkeypatch):
    """As RAY_ADDRESS is set for `ray job submit`; and a host without its port."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ResourceError, match=f"cluster.address {address}.*cannot be joined"):
        join_cluster(ClusterConfig(address=address), plan())


@pytest.mark.parametrize(
    ("address", "ray_address", "local"),
    [
        ("auto", None, True),
        ("auto", "", True),
        ("auto", "10.0.0.1:6379", False),
        ("local", "10.0.0.1:6379", True),
        ("10.0.0.2:6379", None, False),
    ],
)
def test_an_address_means_the_same_to_training_and_to_serving(
    address, ray_address, local, tmp_path, monkeypatch
):
    """Also where `ray start` has left the name of a cluster that runs here, and may be somebody else's."""
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("10.0.0.9:6379")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if ray_address is not None:
        monkeypatch.setenv("RAY_ADDRESS", ray_address)
    assert is_local(address) is local


@pytest.mark.parametrize("module", ["orchestration/placement.py", "serving/cluster.py"])
def test_nobody_else_decides_what_an_address_means(module):
    source = (Path(rl_empathy.__file__).parent / module).read_text(encoding="utf-8")
    assert "is_local(" in source
    for word in ("RAY_ADDRESS", "ray.init(", "current_cluster"):
        assert word not in source

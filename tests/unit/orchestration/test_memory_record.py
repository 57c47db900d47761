"""What the roles of a stage held at most, beside what the plan says."""

import asyncio
from pathlib import Path

from rl_empathy.config.plan import Plan, RolePlan, StagePlan
from rl_empathy.observability.memory import GIB
from rl_empathy.orchestration.memory_record import MemoryRecord
from rl_empathy.orchestration.ray_train import PEAK_FILES
from rl_empathy.types import Pulse
from tests.fakes import endless


def held(name: str, *, peak: float, on_gpu: float = 0.0):
    role = endless(name)
    role.pulse = Pulse("here", peak_bytes=int(peak * GIB), gpu_peak_bytes=int(on_gpu * GIB))
    return role


def planned(role: str, *, gib: float | None, num_gpus: float = 0) -> RolePlan:
    memory = None if gib is None else {"weights": int(gib * GIB)}
    return RolePlan(role=role, instances=1, num_cpus=1, num_gpus=num_gpus, memory=memory)


def ended(record: MemoryRecord, folder: Path, stage: str, *roles: RolePlan):
    told: list[str] = []
    stages = (StagePlan(stage=stage, steps=1, work="trains", roles=roles),)
    plan = Plan(run="r", directory="runs/r", model="m", parameters=None, stages=stages)
    return asyncio.run(record.stage_ended(plan, stage, folder, told.append)), told


def test_estimate_and_measured_peak_are_told_side_by_side_at_the_end_of_a_stage(tmp_path, monkeypatch):
    record = MemoryRecord()
    for role in (
        held("policy_trainer", peak=3.25, on_gpu=1.5),
        held("rollout_worker_0", peak=1.0),
        held("rollout_worker_1", peak=2.0),
    ):
        monkeypatch.setattr(role, "take_pulse", lambda seconds: asyncio.sleep(0), raising=False)
        record.add(role)
    found, told = ended(
        record,
        tmp_path,
        "grpo",
        planned("policy trainer", gib=1.0, num_gpus=1),
        planned("rollout worker", gib=3.0),
        planned("reward model", gib=1.0),
    )
    assert found == {
        "policy trainer": {"planned_gib": 1.0, "held_gib": 1.5},  # of its GPU, as the plan says
        "rollout worker": {"planned_gib": 3.0, "held_gib": 2.0},
    }
    assert told == [
        "grpo: memory, planned / held at most, GiB: policy trainer 1.0 / 1.5, rollout worker 3.0 / 2.0"
    ]


def test_a_worker_of_ray_train_leaves_what_it_held(tmp_path):
    (tmp_path / PEAK_FILES.replace("*", "0")).write_text(f"{2 * GIB} 0", encoding="ascii")
    found, told = ended(MemoryRecord(), tmp_path, "sft", planned("stage worker", gib=None))
    assert found == {"stage worker": {"held_gib": 2.0}}
    assert told == ["sft: memory, planned / held at most, GiB: stage worker ? / 2.0"]

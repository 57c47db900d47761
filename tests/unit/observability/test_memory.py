"""Out of memory, in the words of those who say it; and what a process holds."""

import numpy as np
import pytest
import torch
from ray.exceptions import OutOfMemoryError, RayTaskError

from rl_empathy.errors import ModelError
from rl_empathy.observability.memory import (
    FreedMemory,
    KernelKills,
    MemoryWatch,
    held_bytes,
    machine_bytes,
    memory_ran_out,
)

RAY = """2 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, ID: 246) \
was 22.47GB used / 23.54GB limit (0.954674)
OOM kill reason: Memory usage 4788436992B exceeded threshold of 4751982080B (95.0% of 25276502016B limit)
Object store memory usage: [- objects spillable: 0
- bytes spillable: 0]
Ray killed 2 worker(s) based on the killing policy
To see more information about memory usage on this node, use `ray logs raylet.out -ip 192.0.2.2`
Top 10 memory users: PID	MEM(GB)	COMMAND
13757	11.30	ray::PolicyTrainer.update
13758	6.41	ray::RolloutWorker.sample
13104	0.08	python -m rl_empathy.train
Refer to the documentation on how to address the out of memory issue."""
"""Text of Ray 2.60, shortened."""
RAY_BEFORE = (
    "Task was killed due to the node running low on memory.\nMemory on the node (IP: 192.0.2.2, ID: e4d2) where "
    "the task (actor ID: ab12, name=Trainer.update, pid=17, memory used=8.47GB) was running was 22.80GB / 24.00GB "
    "(0.95), which exceeds the memory usage threshold of 0.95."
)
CUDA = (
    "CUDA out of memory. Tried to allocate 1.16 GiB. GPU 0 has a total capacity of 79.11 GiB of which 612.50 MiB is "
    "free. Including non-PyTorch memory, this process has 78.50 GiB memory in use. Of the allocated memory 77.18 GiB "
    "is allocated by PyTorch, and 635.07 MiB is reserved by PyTorch but unallocated."
)
CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "400000000000000 bytes. Error code 12 (Cannot allocate memory)"
)

VLLM = "No available memory for the cache blocks"


class WorkerGroupError(RuntimeError):
    """As Ray Train raises it."""

    def __init__(self, text: str, failure: Exception) -> None:
        super().__init__(text)
        self.worker_failures = {0: failure}


def in_a_task(cause: Exception) -> Exception:
    text = f"Traceback (most recent call last):\n  File 'x.py', line 1, in f\n{type(cause).__name__}: {cause}"
    return RayTaskError("f", text, cause).as_instanceof_cause()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            OutOfMemoryError(RAY),
            "Ray's memory monitor ended it, with 22.47 of 23.54 GB of its node in use "
            "(PolicyTrainer 11.30, RolloutWorker 6.41 GB)",
        ),
        (
            RuntimeError(RAY_BEFORE),
            "Ray's memory monitor ended it, with 22.80 of 24.00 GB of its node in use",
        ),
        (
            WorkerGroupError("training failed", OutOfMemoryError(RAY)),
            "Ray's memory monitor ended it, with 22.47 of 23.54 GB",
        ),
        (torch.OutOfMemoryError(CUDA), "CUDA out of memory. Tried to allocate 1.16 GiB. GPU 0 has a total"),
        (
            in_a_task(torch.OutOfMemoryError(CUDA)),
            "CUDA out of memory. Tried to allocate 1.16 GiB. GPU 0 has",
        ),
        (RuntimeError(CPU), "can't allocate memory: you tried to allocate 400000000000000 bytes"),
        (in_a_task(RuntimeError(CPU)), "can't allocate memory: you tried to allocate 400000000000000 bytes"),
        (in_a_task(MemoryError("Unable to allocate 149. GiB")), "MemoryError: Unable to allocate 149. GiB"),
        (MemoryError(), "MemoryError"),
        (OSError(12, "Cannot allocate memory"), "[Errno 12] Cannot allocate memory"),
        (
            torch.OutOfMemoryError(CUDA.replace("CUDA", "HIP")),
            "HIP out of memory. Tried to allocate 1.16 GiB",
        ),
        (
            RuntimeError("NCCL error\nLast error:\nCuda failure 2 'out of memory'"),
            "Cuda failure 2 'out of memory'",
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "CUDNN_STATUS_ALLOC_FAILED"),
        (in_a_task(ModelError(f"vLLM cannot load the model m: ValueError: {VLLM}")), VLLM),
        (
            RuntimeError("unable to mmap 64 bytes from file <w>: Cannot allocate memory (12)"),
            "unable to mmap 64 bytes from file <w>: Cannot allocate memory (12)",
        ),
    ],
)
def test_whoever_says_that_memory_ran_out_is_understood_in_a_line(error, told):
    line = memory_ran_out(error)
    assert line.startswith(told)
    assert "\n" not in line
    assert len(line) < 310


@pytest.mark.parametrize(
    "error",
    [
        ValueError("the prompt is out of memory of the user"),
        in_a_task(ValueError("no reference")),
        RuntimeError("The actor died unexpectedly before finishing this task."),
        OSError(2, "No such file or directory"),
    ],
)
def test_another_cause_is_not_taken_for_memory(error):
    assert memory_ran_out(error) is None


def test_torch_itself_runs_out_as_it_is_understood_here():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(10**14)
    assert "you tried to allocate 400000000000000 bytes" in memory_ran_out(raised.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sys/fs/cgroup/memory.events", "low 0\nhigh 0\nmax 12\noom 3\noom_kill {}\noom_group_kill 0\n"),
        ("sys/fs/cgroup/memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"),
        ("proc/vmstat", "nr_free_pages 5309\noom_kill {}\nnuma_hit 1\n"),
    ],
)
def test_each_process_that_the_kernel_ended_is_told_of_once(tmp_path, name, text):
    file = tmp_path / name
    file.parent.mkdir(parents=True)
    file.write_text(text.format(7))
    kills = KernelKills(tmp_path)
    assert not kills.one_more()
    file.write_text(text.format(9))
    assert [kills.one_more() for _ in range(3)] == [True, True, False]


def test_the_limit_of_a_container_is_the_memory_that_there_is(tmp_path):
    limit = tmp_path / "sys/fs/cgroup/memory.max"
    limit.parent.mkdir(parents=True)
    limit.write_text("max\n")
    machine = machine_bytes(tmp_path)
    limit.write_text(f"{1 << 30}\n")
    assert machine_bytes(tmp_path) == 1 << 30 < machine


def test_what_a_process_held_for_a_moment_is_its_peak():
    watch = MemoryWatch()
    before = watch.peak_bytes
    array = np.ones(10**7)  # 80 MB
    assert watch.peak_bytes >= before + 7 * 10**7
    del array
    assert held_bytes() < before + 4 * 10**7
    assert watch.peak_bytes >= before + 7 * 10**7


@pytest.mark.parametrize(("count", "goes_back"), [(4000, True), (1000, False)])
def test_freed_blocks_between_held_ones_go_back_once_the_process_has_grown(count, goes_back):
    memory = FreedMemory()
    blocks = [b"x" * 100_000 for _ in range(count)]
    held = blocks[::100]
    before = held_bytes()
    del blocks
    memory.give_back()
    assert (before - held_bytes() > 0.8 * count * 100_000) == goes_back
    assert len(held) == count // 100

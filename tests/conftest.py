"""Settings of every test: no hub, no deadlines for generated examples (a busy machine is no bug); and small disks."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.load_profile("default")


@pytest.fixture(autouse=True)
def _file_mask() -> Iterator[None]:
    """Roles and commands keep their files private from then on; a test that makes one in this process is no role."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a disk of so many MiB."""
    with ExitStack() as mounts:

        def mount(mib: int) -> Path:
            folder = tmp_path / "a small disk"
            folder.mkdir()
            command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", folder]
            mounted = subprocess.run(command, capture_output=True, text=True)
            if mounted.returncode:
                pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
            mounts.callback(subprocess.run, ["umount", "--lazy", folder], check=True)
            return folder

        yield mount

"""A run of stage grpo as a process, with the quickstart's model, seen through its record. Not a benchmark itself."""

import atexit
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from real_roles import finished_quickstart

ROLES = {
    "rollout worker": "RolloutWorker",
    "policy trainer": "PolicyTrainer",
    "reward model": "RewardModel",
    "reference model": "ReferenceModel",
}
LIMIT_S = 1800


def kill_actor(class_name: str, *, below: int) -> None:
    """SIGKILL the first process of an actor class below a process; Ray writes the class into its command line."""
    for process in psutil.Process(below).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # one that ends meanwhile
            if class_name in " ".join(process.cmdline()[:1]):
                process.send_signal(signal.SIGKILL)
                return
    raise RuntimeError(f"there is no {class_name} to kill")


class ObservedRun:
    """A run of the stages from the fine-tuned policy of the quickstart on, as a process."""

    def __init__(self, name: str, *settings: str) -> None:
        """The process is not started yet; the run directory that an earlier benchmark left is removed."""
        record = finished_quickstart()
        self.folder = Path("runs") / name
        policy = f"model={{path: {record / 'sft' / 'model'}, from_scratch: null}}"
        stages = "run.stages=[reward_modeling, grpo]"
        self._command = [
            sys.executable, "-m", "rl_empathy.train", "configs/quickstart.yaml", f"run.name={name}",
            policy, stages, "logging.wandb=disabled", *settings,
        ]  # fmt: skip
        if self.folder.exists():
            shutil.rmtree(self.folder)  # its lines would be taken for those of this run
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(self._command)
        atexit.register(self.process.kill)  # no run outlives its benchmark

    def end(self) -> None:
        """Wait until it is over."""
        assert self.process is not None
        if self.process.wait(timeout=LIMIT_S):
            raise SystemExit(f"the run ended with {self.process.returncode}")

    def ends_within(self, seconds: float) -> bool:
        """Whether it is over after so many seconds; returns then, or when they have passed."""
        assert self.process is not None
        try:
            code = self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return False
        if code:
            raise SystemExit(f"the run ended with {code}")
        return True

    def kill_driver(self) -> None:
        """SIGKILL; Ray ends the roles then."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(timeout=LIMIT_S)

    def lines(self) -> list[dict[str, Any]]:
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return []
        whole = path.read_text(encoding="utf-8").split("\n")[:-1]  # what follows the last line feed is torn
        return [line for line in map(json.loads, whole) if line["stage"] == "grpo"]

    def kill(self, role: str) -> None:
        """SIGKILL a process of a role."""
        assert self.process is not None
        kill_actor(ROLES[role], below=self.process.pid)

    def wait_for(self, condition: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """The first line of the record that fulfils a condition, once there is one."""
        started = time.monotonic()
        while (found := next(filter(condition, self.lines()), None)) is None:
            assert self.process is not None
            if self.process.poll() is not None:
                raise SystemExit(f"the run ended with {self.process.returncode} before {what}")
            if time.monotonic() > started + LIMIT_S:
                raise SystemExit(f"in {LIMIT_S} s the run did not come to {what}")
            time.sleep(0.1)
        return found

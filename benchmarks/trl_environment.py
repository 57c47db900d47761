"""TRL in an environment of its own, as a process that makes a step whenever it is asked. Not a benchmark itself."""

import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ENVIRONMENT = HERE / "out" / "trl_environment"
TRL = "1.16.0"
"""The newest version when the figures were taken."""
SHARED = ("torch", "transformers", "pydantic")
"""Packages that both sides have in the same version."""


class TRLTrainer:
    """A running TRL trainer that stands still between its steps."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def step(self) -> dict[str, Any]:
        """Make one step: `step_s` seconds, and the `rewards` and `completion_tokens` of its samples."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"TRL ended with exit code {self._process.wait()}")
        return dict(json.loads(answer))


@contextmanager
def trl_trainer(
    model: Path, prompts: Sequence[Any], *, rewards: Sequence[str], **arguments: Any
) -> Iterator[TRLTrainer]:
    """Start TRL's GRPOTrainer, with every core of the machine.

    Args:
        model: Folder of the policy; it is the reference as well.
        prompts: Lists of messages, {"role", "content"}.
        rewards: Dotted paths of reward functions of `rewards.terms`; their sum is trained.
        **arguments: Of TRL's GRPOConfig, beside those that `trl_grpo.py` sets.
    """
    order = {"model": str(model), "prompts": prompts, "rewards": list(rewards), "arguments": arguments}
    environment = os.environ | {
        "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}",  # the reward functions
        "HF_HUB_OFFLINE": "1",
    }
    command = [str(interpreter()), "-c", "import trl_grpo; trl_grpo.main()"]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            yield TRLTrainer(process)
        finally:
            process.stdin.close()  # it ends after the step under way


def interpreter() -> Path:
    """The environment's Python; the environment is made when it is missing (a minute or two)."""
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / "installed").exists():
        print(f"installing TRL {TRL} into {ENVIRONMENT}", file=sys.stderr)
        venv.create(ENVIRONMENT, clear=True)
        wheels = os.environ.get("PIP_FIND_LINKS")
        torch_from = ["--find-links", wheels] if wheels else ["--torch-backend", "cpu"]
        packages = [f"trl=={TRL}", *(f"{name}=={version(name)}" for name in SHARED)]
        uv = str(Path(sys.executable).with_name("uv"))
        command = [uv, "pip", "install", "--quiet", "--python", str(python), *torch_from, *packages]
        subprocess.run(command, check=True)
        (ENVIRONMENT / "installed").touch()
    return python

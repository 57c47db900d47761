"""Programs of the tests that want a process of their own: vLLM lives in the process that starts it."""

import subprocess
import sys
from pathlib import Path


def run_program(module: str, *arguments: str, timeout: float = 500) -> subprocess.CompletedProcess:
    """Run as a module from the top folder, so that it can import what other tests use."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )

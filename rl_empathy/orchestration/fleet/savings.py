"""What a run does with less memory once it ran out of it."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rl_empathy.config.run_file import RunFile
from rl_empathy.errors import OutOfMemoryError
from rl_empathy.observability.disk import write_whole

FILE = "memory.json"
MICROBATCH, SEQUENCES = "grpo.microbatch_tokens", "cluster.rollout_workers.max_running_sequences"
SFT_MICROBATCH = "sft.microbatch_tokens"
_HALVED = {
    "sft": (SFT_MICROBATCH,),
    "policy_trainer": (MICROBATCH,),
    "reference_model": (MICROBATCH,),
    "reward_model": (
        MICROBATCH,
    ),  # it holds little: on a node that is full, its trainer is what can hold less
    "rollout_worker": (SEQUENCES, MICROBATCH),
}
"""What is halved when a role ran out; a rollout worker may have been ended for the trainer's sake."""
_SMALLER = {
    "sft": "sft.microbatch_tokens",
    "reward_modeling": "reward_modeling.batch_pairs, reward_modeling.max_tokens",
    "rollout_worker": "cluster.rollout_workers.kv_cache_mib, cluster.rollout_workers.min",
}
_SMALLER_GRPO = (
    "grpo.microbatch_tokens, cluster.policy_trainer.gradient_checkpointing: true (or zero_stage: 3, with ranks on "
    "several nodes or GPUs), grpo.kl_coef: 0 (no reference model), cluster.rollout_workers.kv_cache_mib and min"
)


class Savings:
    """The settings that were halved since a role ran out of memory; kept in the run directory for every later start.

    Gradients do not change with them: losses are normalised by a count over the whole step. Where the run file says
    something else of the memory than when they were halved, they are forgotten.
    """

    def __init__(self, folder: Path, run_file: RunFile) -> None:
        """Take up what an earlier start of the run has saved.

        Args:
            folder: Folder of the run.
            run_file: Its settings.
        """
        self._path = folder / FILE
        workers, trainer = run_file.cluster.rollout_workers, run_file.cluster.policy_trainer
        self._configured: dict[str, Any] = {
            SFT_MICROBATCH: run_file.sft.microbatch_tokens,
            MICROBATCH: run_file.grpo.microbatch_tokens,
            SEQUENCES: workers.max_running_sequences,
            "cluster.rollout_workers.kv_cache_mib": workers.kv_cache_mib,
            "cluster.rollout_workers.min": workers.min,
            "cluster.policy_trainer": trainer.model_dump(mode="json"),
            "grpo.kl_coef": run_file.grpo.kl_coef,
        }
        saved = self._read()
        self._used: dict[str, int] = dict(saved.get("used", {}))
        self._ran_out: dict[str, str] = dict(saved.get("ran_out", {}))

    def __getitem__(self, key: str) -> int:
        """A setting as it is used now."""
        return int(self._used.get(key, self._configured[key]))

    def ran_out(self, role: str, error: OutOfMemoryError) -> str:
        """Halve what a role that ran out of memory needs, for its next start.

        Args:
            role: Its name.
            error: How it ran out.

        Returns:
            What was done, for the user.

        Raises:
            OutOfMemoryError: It had run out before, or there is nothing to halve.
        """
        kind = re.sub(r"_(rank_)?\d+$", "", role)
        smaller = f"Smaller make it: {_SMALLER.get(kind, _SMALLER_GRPO)}"
        if role in self._ran_out or kind not in _HALVED:
            again = " a second time" if role in self._ran_out else ""
            raise OutOfMemoryError(
                f"{error}\n{role} ran out of memory{again}: the run ends, and the same command resumes it from its "
                f"last checkpoint. {smaller}"
            ) from error
        self._ran_out[role] = str(error)
        done = [text for key in _HALVED[kind] if (text := self._halve(key))]
        write_whole(self._path, json.dumps(self._record(), indent=1, ensure_ascii=False) + "\n")
        return f"{' and '.join(done) or 'Nothing more is halved'}; what is computed stays the same. {smaller}"

    def _halve(self, key: str) -> str | None:
        """Once, however many roles ran out."""
        before = self._configured[key]
        if key in self._used or before < 2:
            return None
        self._used[key] = before // 2
        return f"{key} is halved ({before} -> {before // 2})"

    def _record(self) -> Mapping[str, Any]:
        return {"configured": self._configured, "used": self._used, "ran_out": self._ran_out}

    def _read(self) -> dict[str, Any]:
        try:
            saved = json.loads(self._path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return saved if saved.get("configured") == self._configured else {}

"""A role's log, and everything else that its process writes, is for its owner only."""

import stat
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from pathlib import Path
from rl_empathy.observability.role_log import divert_output

log = Path(sys.argv[1])
divert_output(str(log))
print("a line of the role")
(log.parent / "rollouts.jsonl").write_text("what somebody said")
"""


def test_what_a_role_writes_is_for_its_owner_only(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "reward_model.log"
    subprocess.run([sys.executable, "-c", PROGRAM, str(log)], check=True, timeout=120, umask=0o022)
    assert log.read_text() == "a line of the role\n"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (log.parent, *log.parent.iterdir())}
    assert modes == {"logs": 0o700, "reward_model.log": 0o600, "rollouts.jsonl": 0o600}

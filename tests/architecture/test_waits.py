"""Every wait ends: a call that may wait for ever has a time limit, or a reason why something else ends it."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "rl_empathy"

ENDED_BY_SOMETHING_ELSE = {
    (
        "orchestration/group_buffer.py",
        "self._freed.wait",
    ): "the trainer frees slots, and its calls have deadlines",
    (
        "orchestration/group_buffer.py",
        "self._arrived.wait",
    ): "groups arrive or fail, and their calls have deadlines",
    ("orchestration/group_buffer.py", "asyncio.wait"): "the same",
    ("orchestration/stop.py", "self._event.wait"): "waited for beside the work, which has deadlines",
    ("orchestration/stop.py", "asyncio.wait"): "the same",
    ("orchestration/fleet/ranks.py", "asyncio.wait"): "every answer waited for has a deadline (Role.answer)",
    ("orchestration/fleet/workers/attendance.py", "self._changed.wait"): "inside asyncio.timeout",
    (
        "orchestration/fleet/policy_trainer.py",
        "self._idle.wait",
    ): "an update ends, and its call has a deadline",
    ("engines/generation.py", "self._commands.get"): "the mailbox of a thread that has nothing else to do",
    ("rewards/parts.py", "self._calls.get"): "the same, and the thread does not keep its process alive",
}


def waits_without_limit(path: Path) -> list[tuple[str, int]]:
    """Calls that wait without a limit: the text of what is called, and its line."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        called = ast.unparse(node.func)
        has_limit = any(keyword.arg == "timeout" for keyword in node.keywords)
        if (
            (called in ("ray.get", "ray.wait") and not has_limit)
            or (called in ("asyncio.wait", "subprocess.run", "concurrent.futures.wait") and not has_limit)
            or (node.func.attr in ("wait", "join", "get", "acquire") and not node.args and not node.keywords)
        ):
            found.append((called, node.lineno))
    return found


def test_every_wait_has_a_limit_or_a_reason():
    unlimited, reasons = [], set(ENDED_BY_SOMETHING_ELSE)
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        for called, line in waits_without_limit(path):
            reasons.discard((name, called))
            if (name, called) not in ENDED_BY_SOMETHING_ELSE:
                unlimited.append(f"{name}:{line} {called}")
    assert unlimited == []
    assert reasons == set(), "reasons for waits that are gone"


def test_a_bare_wait_is_found(tmp_path):
    path = tmp_path / "bare.py"
    path.write_text("ray.get(x)\nevent.wait()\nevent.wait(3)\nawait_me = asyncio.wait(tasks)\n")
    assert [called for called, _ in waits_without_limit(path)] == ["ray.get", "event.wait", "asyncio.wait"]

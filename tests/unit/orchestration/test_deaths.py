"""A process that the kernel ended since memory was full: told as that, and of no other."""

import asyncio
import platform
from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError

from rl_empathy.errors import OutOfMemoryError, RoleDiedError
from rl_empathy.orchestration.fleet import calls
from rl_empathy.orchestration.fleet.calls import Role
from rl_empathy.types import Pulse


class Kills:
    def __init__(self, *, count: int) -> None:
        self.count = count

    def one_more(self) -> bool:
        self.count -= 1
        return self.count >= 0


@pytest.mark.parametrize(
    ("node", "kills", "error", "told"),
    [
        (
            platform.node(),
            1,
            OutOfMemoryError,
            r"the kernel ended it, since memory was full; it last held 3\.0 GiB",
        ),
        (platform.node(), 0, RoleDiedError, "died while it was to update"),
        ("another node", 1, RoleDiedError, "died while it was to update"),
    ],
)
def test_a_death_is_the_kernels_where_it_counts_one_more_on_this_machine(
    tmp_path: Path, monkeypatch, node, kills, error, told
):
    async def call() -> None:
        role = Role(name="policy_trainer", actor=None, log=tmp_path / "log", node=node)
        role.pulse = Pulse(node, held_bytes=3 << 30)
        answer = asyncio.get_running_loop().create_future()
        answer.set_exception(ActorDiedError())
        await role.answer(answer, seconds=1, doing="update")

    monkeypatch.setattr(calls, "KERNEL_KILLS", Kills(count=kills))
    with pytest.raises(error, match=told):
        asyncio.run(call())

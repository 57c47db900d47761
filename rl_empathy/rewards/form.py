"""Does the completion keep the output schema?"""

from collections.abc import Sequence
from typing import Any

from rl_empathy.schema import ParsedCompletion
from rl_empathy.types import RolloutGroup


def format_reward(group: RolloutGroup, parsed: Sequence[ParsedCompletion], **_: Any) -> list[float]:
    """1 when the completion is exactly what the schema renders, else 0.

    r_format of Empathy-R1 (arXiv:2509.14851, sec. 3.3), which tests the presence of the tags; ours is strict: order,
    closing, nothing empty, nothing outside. A truncated completion has no end and is not valid.
    """
    return [
        float(p.valid and completion.finish_reason == "stop")
        for p, completion in zip(parsed, group.completions, strict=True)
    ]

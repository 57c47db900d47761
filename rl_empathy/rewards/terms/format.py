"""Does the completion keep the output schema?"""

from rl_empathy.config.sections.rewards import FormatTerm
from rl_empathy.rewards.parts import Parts
from rl_empathy.rewards.view import GroupView


class Format:
    """1 when the completion is exactly what the schema renders, and ends, else 0.

    r_format of Empathy-R1 (arXiv:2509.14851, sec. 3.3), which tests the presence of the tags; ours is strict: order,
    closing, nothing empty, nothing outside. A truncated completion has no end and is not valid.
    """

    blocks = False

    def __init__(self, config: FormatTerm, parts: Parts) -> None:
        """Nothing is needed."""

    async def score(self, view: GroupView) -> list[float]:
        return [float(completion.keeps_form) for completion in view.completions]

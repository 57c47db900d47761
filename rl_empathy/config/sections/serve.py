"""The endpoint: where it listens, and how much it sends."""

from typing import Annotated, Literal

from pydantic import Field

from rl_empathy.config.sections.section import Count, Positive, Section


class ServeConfig(Section):
    """The Ray Serve endpoint."""

    host: Literal["127.0.0.1", "localhost", "::1"] = "127.0.0.1"
    """Address to listen on; loopback only, until the safety gate stands in front."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Port to listen on."""
    show_reasoning: bool = False
    """Send the reasoning in the field `reasoning`, or keep it hidden."""
    max_completion_tokens: Count = 512
    """Most tokens of an answer, whatever the client asks for. A client's max_tokens counts the same: what is read."""
    max_reasoning_tokens: Count = 512
    """Most tokens that a completion spends on anything but its answer: reasoning and delimiters."""
    system_message: Literal["refuse", "take"] = "refuse"
    """Whether clients may send a system message. take is for models that were trained without one
    (data.system_prompt is "", or the schema has no instruction)."""
    start_s: Positive = 300
    """Deadline for the first healthy answer, seconds."""

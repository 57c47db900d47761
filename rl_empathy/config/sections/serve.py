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
    """Most tokens of a reply, whatever the client asks for."""
    start_s: Positive = 300
    """Deadline for the first healthy answer, seconds."""

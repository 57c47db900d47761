"""The language model that the run starts from: loaded, or made on the spot."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from rl_empathy.config.sections.section import BrokenRule, Count, Positive, Section


class FromScratchConfig(Section):
    """A small Llama made on the spot, with a tokenizer trained on the run's own text."""

    hidden_size: Count = 256
    """Width of the residual stream."""
    num_layers: Count = 2
    """Transformer layers."""
    num_heads: Count = 4
    """Attention heads; divides hidden_size."""
    vocabulary_size: Annotated[int, Field(ge=300)] = 4096
    """Entries of the byte-level BPE tokenizer, those of the schema's delimiters included."""
    context_tokens: Count = 1024
    """Longest sequence, tokens."""
    num_steps: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps of language modelling on the posts and references, before every other stage."""
    learning_rate: Positive = 1e-3
    """Peak learning rate of that language modelling."""
    batch_tokens: Count = 8192
    """Tokens an optimizer step of that language modelling."""

    def broken_rules(self) -> Iterator[BrokenRule]:
        step = 2 * self.num_heads  # the rotary embedding turns pairs of a head's numbers
        if self.hidden_size % step:
            yield BrokenRule(
                ("hidden_size", "num_heads"),
                f"hidden_size ({self.hidden_size}) must be a multiple of twice num_heads ({self.num_heads}); "
                f"for example hidden_size: {step * (self.hidden_size // step + 1)}",
            )


class ModelConfig(Section):
    """The language model that the run starts from."""

    path: str | None = None
    """A local folder, a GGUF file, a hub id, or package://<package>/<file.gguf> for a model inside an installed
    package."""
    revision: str | None = None
    """Commit of the hub repository; wanted whenever path is a hub id."""
    from_scratch: FromScratchConfig | None = None
    """Make a tiny model on the spot instead of loading one; excludes path."""
    chat_template: str | None = None
    """Chat template in place of the model's own, or for a model without one: a path, or `roles` ("User: …" in plain
    words, for every base model) or `chatml` (for models that know <|im_start|>)."""
    chat_template_kwargs: dict[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")], Any] = Field(
        default_factory=dict
    )
    """Arguments of the chat template, such as enable_thinking: false; written into the template of the run's
    models, the released one too."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of weights and activations; float32 is the faster one on a CPU without native
    bfloat16."""

    def broken_rules(self) -> Iterator[BrokenRule]:
        if (self.path is None) == (self.from_scratch is None):
            yield BrokenRule(
                ("path", "from_scratch"),
                "give exactly one of path (a model to load) and from_scratch (a model to make)",
            )
        elif self.from_scratch is not None and (self.chat_template is not None or self.chat_template_kwargs):
            yield BrokenRule(
                ("chat_template", "chat_template_kwargs", "from_scratch"),
                "chat_template and chat_template_kwargs go with path; from_scratch has its own template",
            )

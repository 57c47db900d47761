"""What of a model is trained, and what of it goes to the engines that sample."""

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor, nn

from rl_empathy.engines.language_models import tensors_of


class Trainable(Protocol):
    """A way to train a model."""

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What the optimizer gets, by name."""

    def published(self) -> Iterator[tuple[str, Tensor]]:
        """Whole tensors of the model, by their names in transformers: what vLLM is given, and what is exported."""


class WholeModel:
    """Every weight is trained, but those that the architecture itself holds fixed."""

    def __init__(self, language_model: Any) -> None:
        self._language_model = language_model

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from ((name, p) for name, p in self._language_model.named_parameters() if p.requires_grad)

    def published(self) -> Iterator[tuple[str, Tensor]]:
        yield from tensors_of(self._language_model)

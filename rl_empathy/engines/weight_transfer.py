"""Weights from the trainer to vLLM through vLLM's own weight-transfer API.

vLLM brings transports for GPUs (NCCL, CUDA IPC) and none for CPUs. `ArrayTransferEngine` is the missing one: it loads
arrays that already lie in this process's memory. They get there through Ray's object store, which is the cheapest way
there is on CPUs: one fetch a node, then shared memory that every worker of the node maps without a copy.

Embedding and head are loaded in place, since vLLM holds them as they come: its own way, made for weights that it lays
out anew, would copy these largest tensors twice. On a CPU it holds a packed copy besides, to multiply by: one of a tied
head and another of its embedding. Its `reload_weights` leaves that of the head, and with it the logits, as they were.
Here one copy is made for both, so a tied head is not published.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from vllm.config import WeightTransferConfig
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.vocab_parallel_embedding import (
    UnquantizedEmbeddingMethod,
    VocabParallelEmbedding,
)
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info
from vllm.platforms import current_platform

from rl_empathy.errors import WeightSyncError

BACKEND = "rl_empathy_arrays"


@dataclass
class ArrayInitInfo(WeightTransferInitInfo):
    """Nothing to agree on: the arrays come with every update."""


@dataclass
class ArrayUpdateInfo(WeightTransferUpdateInfo):
    """All tensors of one policy version."""

    weights: Mapping[str, Tensor]


class ArrayTransferEngine(WeightTransferEngine[ArrayInitInfo, ArrayUpdateInfo]):
    """Loads tensors that already are in this process's memory."""

    init_info_cls = ArrayInitInfo
    update_info_cls = ArrayUpdateInfo

    def init_transfer_engine(self, init_info: ArrayInitInfo) -> None:
        """Nothing to set up."""

    def start_weight_update(self) -> None:
        self._in_place = [
            layer
            for layer in self.model.modules()
            if isinstance(layer, VocabParallelEmbedding)
            and isinstance(layer.quant_method, UnquantizedEmbeddingMethod)
        ]
        for layer in self._in_place:
            get_layerwise_info(layer).load_numel_total = 0  # seems to be under way, which vLLM passes over
        initialize_layerwise_reload(self.model)
        for layer in self._in_place:
            get_layerwise_info(layer).reset()

    def update_weights(self, update_info: dict[str, Any]) -> None:
        # The inherited method ends with torch.accelerator.synchronize(), which raises where there is no accelerator.
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: ArrayUpdateInfo) -> None:
        wanted = {name for name, _ in self.model.named_parameters()}  # a tied one once
        loaded = self.model.load_weights(iter(update_info.weights.items()))  # type: ignore[operator]
        if missing := sorted(wanted - loaded):
            raise WeightSyncError(
                f"the published weights lack {len(missing)} of the engine's tensors, among them {missing[0]}"
            )

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        if current_platform.is_cpu():
            self._pack()

    def _pack(self) -> None:
        packed: dict[int, Any] = {}
        for layer in self._in_place:
            weight = id(layer.weight)
            if weight not in packed:
                layer.quant_method.process_weights_after_loading(layer)
                packed[weight] = layer.cpu_linear
            layer.cpu_linear = packed[weight]

    def shutdown(self) -> None:
        """Nothing is held."""


def transfer_config() -> WeightTransferConfig:
    """VLLM's configuration for this transport; registers it on first use."""
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, ArrayTransferEngine)
    return WeightTransferConfig(backend=BACKEND)

"""Weights from the trainer to vLLM through vLLM's own weight-transfer API.

vLLM brings transports for GPUs (NCCL, CUDA IPC) and none for CPUs. `ArrayTransferEngine` is the missing one: it loads
arrays that already lie in this process's memory. They get there through Ray's object store, which is the cheapest way
there is on CPUs: one fetch a node, then shared memory that every worker of the node maps without a copy.

A tied head is not published: it is the embedding. But on a CPU vLLM computes with a packed copy of it, which would
silently stay that of the old weights (as it does after vLLM's own `reload_weights`). vLLM packs the embedding as well,
though nothing multiplies by it: after a load the head computes with that copy, which is the same matrix.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import Module
from vllm.config import WeightTransferConfig
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

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
        self._tied_heads = tied_heads(self.model)
        for head in self._tied_heads:
            get_layerwise_info(head).load_numel_total = 0  # seems to be under way, which vLLM passes over
        initialize_layerwise_reload(self.model)
        for head in self._tied_heads:
            get_layerwise_info(head).reset()

    def update_weights(self, update_info: dict[str, Any]) -> None:
        # The inherited method ends with torch.accelerator.synchronize(), which raises where there is no accelerator.
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: ArrayUpdateInfo) -> None:
        wanted = {name for name, weight in self.model.named_parameters() if weight.is_meta}
        loaded = self.model.load_weights(iter(update_info.weights.items()))  # type: ignore[operator]
        if missing := sorted(wanted - loaded):
            raise WeightSyncError(
                f"the published weights lack {len(missing)} of the engine's tensors, among them {missing[0]}"
            )

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        for head, embedding in self._tied_heads.items():
            head.cpu_linear = embedding.cpu_linear

    def shutdown(self) -> None:
        """Nothing is held."""


def tied_heads(model: Module) -> dict[ParallelLMHead, VocabParallelEmbedding]:
    """Heads whose weight is that of an embedding, with the embedding."""
    layers = [module for module in model.modules() if isinstance(module, VocabParallelEmbedding)]
    heads = [layer for layer in layers if isinstance(layer, ParallelLMHead)]
    return {
        head: layer for head in heads for layer in layers if layer is not head and layer.weight is head.weight
    }


def transfer_config() -> WeightTransferConfig:
    """VLLM's configuration for this transport; registers it on first use."""
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, ArrayTransferEngine)
    return WeightTransferConfig(backend=BACKEND)

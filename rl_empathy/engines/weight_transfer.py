"""Weights from the trainer to vLLM through vLLM's own weight-transfer API.

vLLM brings transports for GPUs (NCCL, CUDA IPC) and none for CPUs. `ArrayTransferEngine` is the missing one: it loads
arrays that already lie in this process's memory. They get there through Ray's object store, which is the cheapest way
there is on CPUs: one fetch a node, then shared memory that every worker of the node maps without a copy.

A publish carries every tensor that the engine keeps a copy of, tied ones too: on a CPU vLLM packs `lm_head.weight`
apart from the embedding it is tied to, and without it the logits would silently stay those of the old weights.
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
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

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
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        # The inherited method ends with torch.accelerator.synchronize(), which raises where there is no accelerator.
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: ArrayUpdateInfo) -> None:
        self.model.load_weights(iter(update_info.weights.items()))  # type: ignore[operator]

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Nothing is held."""


def transfer_config() -> WeightTransferConfig:
    """VLLM's configuration for this transport; registers it on first use."""
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, ArrayTransferEngine)
    return WeightTransferConfig(backend=BACKEND)

"""DeepSpeed, and what its ZeRO cuts over the ranks, seen whole. Every rank makes every call, in the same order."""

import math
import os
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rl_empathy.config.sections import OptimizerConfig

ZeroStage = Literal[0, 2, 3]


def start_deepspeed(
    model: nn.Module, settings: OptimizerConfig, zero_stage: ZeroStage, betas: tuple[float, float]
) -> tuple[Any, torch.optim.AdamW]:
    """Give a model to DeepSpeed.

    Args:
        model: On this rank, whole.
        settings: AdamW.
        zero_stage: What the ranks shard: 0 nothing; 2 moments and gradients; 3 weights too.
        betas: AdamW's.

    Returns:
        DeepSpeed's engine, and the optimizer that it steps.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("LOCAL_RANK", "0")  # what its launcher would have set
    import deepspeed
    import deepspeed.ops

    # On a CPU DeepSpeed would compile a shared-memory collective here: 42 s, and a failure without a compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_init_required=False)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        betas=betas,
    )
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 30,
        "gradient_clipping": 0.0,  # `Shards.step` does; left out, DeepSpeed would clip once more, at 1
    }
    if zero_stage:
        config |= {
            "zero_optimization": {"stage": zero_stage},
            "gradient_clipping": settings.max_grad_norm,
        }
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    return engine, optimizer


class Shards:
    """Weights, moments and gradients of a DeepSpeed engine, whichever ranks hold them."""

    def __init__(
        self, engine: Any, optimizer: torch.optim.AdamW, zero_stage: ZeroStage, max_grad_norm: float
    ) -> None:
        self._engine = engine
        self._optimizer = optimizer
        self._zero_stage = zero_stage
        self._max_grad_norm = max_grad_norm

    @property
    def makes_moments(self) -> bool:
        """Whether moments exist only after a first step, in a shape of DeepSpeed's own."""
        return self._zero_stage > 0

    def step(self) -> float:
        """Clip and apply the gradients: their global norm before.

        A norm that is not finite means that the gradients were thrown away.
        """
        if self._zero_stage:
            self._engine.step()  # clips, and throws away
            norm = float(self._engine.get_global_grad_norm())
            return math.nan if self._engine.optimizer.overflow else norm
        parameters = [p for p in self._engine.module.parameters() if p.requires_grad]
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self._max_grad_norm))
        if math.isfinite(norm):
            self._engine.step()
        else:
            self._engine.zero_grad()
            self._optimizer.zero_grad(set_to_none=True)
        return norm

    def whole(self, tensor: Tensor) -> Tensor:
        """A tensor: itself where every rank holds it, else a copy on the CPU, so that no GPU ever holds all of them."""
        if self._zero_stage < 3 or not isinstance(tensor, nn.Parameter):
            return tensor.detach()
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters([tensor]):
            return tensor.detach().to("cpu", copy=True)

    def set_weight(self, parameter: Tensor, value: Tensor) -> None:
        """Overwrite a weight in place, so that optimizer and model keep sharing it."""
        if self._zero_stage == 3:
            from deepspeed.runtime.zero import GatheredParameters

            with torch.no_grad(), GatheredParameters([parameter], modifier_rank=0):
                parameter.copy_(value)
        else:
            with torch.no_grad():
                parameter.copy_(value)
        if self._zero_stage:  # the optimizer has a copy of its own
            from deepspeed.utils import safe_set_full_fp32_param

            safe_set_full_fp32_param(parameter, value.to(parameter.device))

    def moment(self, parameter: Tensor, key: str, *, copy: bool) -> Tensor:
        """AdamW's moment of a weight on the CPU: a copy, or itself where it is there and whole."""
        if not self._zero_stage:
            return self._optimizer.state[parameter][key].detach().to("cpu", copy=copy)  # type: ignore[no-any-return]
        from deepspeed.utils import safe_get_full_optimizer_state

        return safe_get_full_optimizer_state(parameter, key).detach().to("cpu", copy=copy)  # type: ignore[no-any-return]

    def set_moment(self, parameter: Tensor, key: str, value: Tensor) -> None:
        """Overwrite a moment of a weight; one that DeepSpeed makes must exist."""
        if self._zero_stage:
            from deepspeed.utils import safe_set_full_optimizer_state

            safe_set_full_optimizer_state(parameter, value.to(parameter.device), key)
        else:
            state = self._optimizer.state[parameter]
            state[key] = value.to(parameter.device, copy=True)
            state.setdefault("step", torch.tensor(0.0))

    def set_step(self, count: int) -> None:
        """How many steps AdamW has made."""
        for state in self._optimizer.state.values():
            state["step"].fill_(count)

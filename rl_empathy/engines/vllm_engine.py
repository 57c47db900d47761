"""vLLM in our words: its environment, its start, the parameters of a group, and what it returns as our types."""

import os
from typing import Any

import torch

from rl_empathy.config.memory import MAX_BATCHED_TOKENS
from rl_empathy.config.sections import SamplingConfig
from rl_empathy.errors import ModelError
from rl_empathy.types import Completion, FinishReason, PolicyVersion, VersionSpan

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine lives in this process
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
ENVIRONMENT_ON_CPU = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # "auto" binds every engine of a machine to the same core
    # The sampler's one compiled function takes a C++ compiler, a path without a space, and 10 s.
    "TORCHDYNAMO_DISABLE": "1",
}


def set_environment() -> None:
    """Set what vLLM reads when it is imported; what the user has set stays."""
    wanted = ENVIRONMENT if torch.cuda.is_available() else ENVIRONMENT | ENVIRONMENT_ON_CPU
    for name, value in wanted.items():
        os.environ.setdefault(name, value)


def start_vllm(model_path: str, **arguments: Any) -> Any:
    """Start an engine on a folder of a transformers model, at policy version 0.0.

    Args:
        model_path: The folder.
        arguments: Further arguments of vLLM's `EngineArgs`.

    Raises:
        ModelError: vLLM cannot load the model; the text carries its reason.
    """
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    from rl_empathy.engines.weight_transfer import transfer_config

    try:
        engine = LLMEngine.from_engine_args(
            EngineArgs(
                model=model_path,
                enforce_eager=True,
                logprobs_mode="processed_logprobs",  # of the distribution that was sampled from
                weight_transfer_config=transfer_config(),
                generation_config="vllm",  # no sampling defaults from the model's folder
                # A prompt prefilled in pieces rewinds its request's generator, which on a CPU raises (vLLM 0.32).
                enable_chunked_prefill=False,
                max_num_batched_tokens=max(arguments["max_model_len"], MAX_BATCHED_TOKENS),
                disable_log_stats=True,
                **arguments,
            )
        )
    except Exception as error:  # what a family lacks in vLLM shows as an error of any kind
        raise ModelError(
            f"vLLM cannot load the model {model_path}: {type(error).__name__}: {error}"
        ) from error
    engine.set_weight_version(str(PolicyVersion(0, 0)))
    return engine


def sampling_params(sampling: SamplingConfig, *, group_size: int, seed: int) -> Any:
    """Parameters of vLLM for a group, whose completions come back together; completion i is drawn with seed + i."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=group_size,
        temperature=sampling.temperature,
        max_tokens=sampling.max_completion_tokens,
        logprobs=0,  # those of the sampled tokens only
        seed=seed,
        skip_special_tokens=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def completion_of(part: Any) -> Completion:
    """A finished completion of vLLM, every token with its log-prob and its policy version."""
    ids = tuple(part.token_ids)
    logprobs = tuple(step[token].logprob for step, token in zip(part.logprobs, ids, strict=True))
    spans = tuple(VersionSpan(PolicyVersion.parse(s.version), s.start, s.end) for s in part.weight_versions)
    reason: FinishReason = "length" if part.finish_reason == "length" else "stop"
    return Completion(
        token_ids=ids, rollout_logprobs=logprobs, version_spans=spans, finish_reason=reason, text=part.text
    )

"""Log-probs of given tokens from hidden states, chunk by chunk: [tokens, vocab] never exists in full."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ELEMENTS = 1 << 25
"""Logits held at a time: 2^25 numbers are 128 MiB in float32."""


def token_logprobs(
    hidden: Tensor, head: Tensor, token_ids: Tensor, *, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probability of each given token, and the entropy of the distribution it was taken from.

        log p(y_t) = z_t[y_t] - logsumexp(z_t),   z_t = W h_t / T,   H_t = logsumexp(z_t) - Σ_v p_v z_v

    The logits are made in float32 chunks and made again in the backward pass, so memory does not grow with
    tokens × vocab. The entropy carries no gradient.

    Args:
        hidden: [tokens, width] last hidden states, one for each token to be predicted.
        head: [vocab, width] output embedding W; multiplied in the number format of `hidden`.
        token_ids: [tokens] int, the tokens y.
        temperature: T, as in sampling.

    Returns:
        [tokens] log-probs, nats, and [tokens] entropies, nats.
    """
    logprobs, entropy = _ChunkedLogprobs.apply(hidden, head, token_ids, temperature)  # type: ignore[no-untyped-call]
    return logprobs, entropy


def logits_logprobs(logits: Tensor, token_ids: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """The same from logits that a model has already made.

    Args:
        logits: [tokens, vocab], one row for each token to be predicted.
        token_ids: [tokens] int, the tokens y.
        temperature: T, as in sampling.

    Returns:
        [tokens] log-probs, nats, and [tokens] entropies without a gradient, nats.
    """
    every = logits.float().div(temperature).log_softmax(-1)
    with torch.no_grad():
        entropy = -(every.exp() * every.clamp(min=torch.finfo(torch.float32).min)).sum(-1)
    return every.gather(-1, token_ids[:, None]).squeeze(-1), entropy


class _ChunkedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, token_ids: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        logprobs = hidden.new_empty(len(hidden), dtype=torch.float32)
        entropy = torch.empty_like(logprobs)
        weight = head.to(hidden.dtype)
        for part in _chunks(hidden, head):
            # log_softmax, not logsumexp: vLLM uses it too, and the two kernels round a long sum differently (1e-5 nats)
            every = _logits(hidden[part], weight, temperature).log_softmax(-1)
            logprobs[part] = every.gather(-1, token_ids[part, None]).squeeze(-1)
            entropy[part] = -(every.exp() * every).sum(-1)
        ctx.save_for_backward(hidden, head, token_ids)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_logprobs: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden, head, token_ids = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_head = torch.zeros_like(head)
        weight = head.to(hidden.dtype)
        for part in _chunks(hidden, head):
            # d log p(y) / dz = onehot(y) - softmax(z)
            grad_logits = _logits(hidden[part], weight, ctx.temperature).softmax(-1).neg_()
            grad_logits.scatter_add_(-1, token_ids[part, None], torch.ones_like(grad_logits[:, :1]))
            grad_logits *= grad_logprobs[part, None] / ctx.temperature
            grad_logits = grad_logits.to(hidden.dtype)
            grad_hidden[part] = grad_logits @ weight
            grad_head += grad_logits.T @ hidden[part]
        return grad_hidden, grad_head, None, None


def _logits(hidden: Tensor, head: Tensor, temperature: float) -> Tensor:
    return (hidden @ head.T).float().div_(temperature)


def _chunks(hidden: Tensor, head: Tensor) -> list[slice]:
    size = max(1, CHUNK_ELEMENTS // len(head))
    return [slice(start, start + size) for start in range(0, len(hidden), size)]

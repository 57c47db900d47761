import pytest
import torch

from rl_empathy.algorithms import logprobs as module
from rl_empathy.algorithms.logprobs import token_logprobs


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(11, 8, generator=generator, requires_grad=True)
    head = torch.randn(29, 8, generator=generator, requires_grad=True)
    return hidden, head, torch.randint(29, (11,), generator=generator)


def test_logprobs_entropy_and_gradients_are_those_of_the_full_softmax_in_any_chunks(case, monkeypatch):
    hidden, head, ids = case
    every = ((hidden @ head.T) / 0.7).log_softmax(-1)
    full = every.gather(-1, ids[:, None]).squeeze(1)
    weights = torch.linspace(-1, 1, 11)
    wanted = torch.autograd.grad((weights * full).sum(), (hidden, head))
    for elements in (29, 29 * 4, 1 << 25):  # one token, four tokens, all tokens at a time
        monkeypatch.setattr(module, "CHUNK_ELEMENTS", elements)
        logprobs, entropy = token_logprobs(hidden, head, ids, temperature=0.7)
        grads = torch.autograd.grad((weights * logprobs).sum(), (hidden, head))
        assert torch.allclose(logprobs, full, atol=1e-6)
        assert torch.allclose(entropy, -(every.exp() * every).sum(-1), atol=1e-5)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(grads, wanted, strict=True))


def test_the_entropy_carries_no_gradient(case):
    _, entropy = token_logprobs(*case, temperature=1.0)
    assert not entropy.requires_grad

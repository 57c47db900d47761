"""Which way to compute a model's log-probs is right? Each is compared with transformers' own, on a short input.

    shared_prompt   a prompt once for all of its completions, our attention, our head      the fastest
    packed          sequences side by side in a row, the model's attention, our head
    one_sequence    one sequence a row, the model's own forward pass from end to end       the last resort

What is right is `model(ids).logits` of one sequence alone with eager attention: other implementations drop a soft-cap.
Two things do not show on a short input or with small numbers, and are read off the configuration: a soft-cap, and a
rotary embedding that follows the length. All else is compared in float32, where an error and rounding are far apart. A
layout in bfloat16 is then held against how far the model's own forward pass strays in bfloat16.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from rl_empathy.engines.language_models import (
    architecture,
    keys_of,
    own_logprobs,
    probe_samples,
    rounding_exceeded,
)
from rl_empathy.engines.shared_prompt import ATTENTION, Layout
from rl_empathy.errors import ModelError

if TYPE_CHECKING:
    from rl_empathy.engines.policy_model import PolicyModel

SHORT_WINDOW = 8
"""Tokens that a windowed layer sees during the comparison: fewer than the input has, so that the window is at work."""
READ_EVERY_TIME = ("sliding_window", "attention_chunk_size")
"""The windows of a configuration that transformers reads anew in every forward pass."""
BFLOAT16_FACTOR = 2.0
"""How many times the mean error of the model's own forward pass in bfloat16 a layout's may be."""
BFLOAT16_FLOOR = 0.02
"""Mean error in bfloat16 that is never held against a layout, nats."""

log = logging.getLogger(__name__)


class Way(NamedTuple):
    """A layout with the attention implementation that transformers uses in it."""

    layout: Layout
    attention: str


def choose_way(model: "PolicyModel", wanted: Layout, *, trained: bool) -> str | None:
    """Put a model into the fastest way, from the wanted layout on, that gives transformers' log-probs.

    Args:
        model: Whole, and in the mode (training or evaluation) in which it will be used.
        wanted: The layout that the run file asks for.
        trained: Its weights will get gradients, so every one of them has to.

    Returns:
        None when that layout is right, else which one is used and why; the log says it too.

    Raises:
        ModelError: No way is right, or the model does not predict the next token from those before it alone.
    """
    uses_sdpa = model.language_model._supports_sdpa and not _caps_attention(model.language_model.config)
    attention = "sdpa" if uses_sdpa else "eager"
    ways = [Way("shared_prompt", ATTENTION), Way("packed", attention)]
    ways += [Way("one_sequence", other) for other in dict.fromkeys((attention, "eager"))]
    name = architecture(model.language_model)
    reasons: list[str] = []
    with torch.no_grad():
        comparison = _compared_with_itself(model)
        for way in ways[[way.layout for way in ways].index(wanted) :]:
            fault = comparison.fault(way) or (comparison.untrained() if trained else None)
            if fault is None:
                if not reasons:
                    return None
                note = f"{name} is computed in the layout {way.layout}: {'; '.join(reasons)}"
                log.warning(note)
                return note
            reasons.append(f"{way.layout} with {way.attention} attention: {fault}")
    raise ModelError(f"{name} is not trained here, since no way to compute it is right: {'; '.join(reasons)}")


def _compared_with_itself(model: "PolicyModel") -> "_Comparison":
    try:
        return _Comparison(model)
    except ModelError:
        raise
    except Exception as error:  # a library's own code: any error says that it is no use here
        raise ModelError(
            f"{architecture(model.language_model)} is not trained here, since transformers itself cannot run it on a "
            f"short input (of up to 40 tokens): {_in_one_line(error)}"
        ) from error


class _Comparison:
    """What transformers computes on the short input, and how a way differs from it."""

    def __init__(self, model: "PolicyModel") -> None:
        self._model = model
        self._language_model = language_model = model.language_model
        self._samples = probe_samples(language_model.config)
        windows = _windows(language_model.config)
        self._short = {key: SHORT_WINDOW for key in windows if key in READ_EVERY_TIME}
        with _in_float32(language_model):
            self._exact = self._transformers()
            if rounding_exceeded(self._transformers(), self._exact):
                raise ModelError(
                    f"{architecture(language_model)} gives other log-probs each time that it is run"
                )
            self._refuse_sight_of_the_future()
            with _set(language_model.config, self._short):
                self._expected = self._transformers()
        self._only_alone = _changes_with_length(language_model.config) or _caps_logits(language_model.config)
        if windows and torch.equal(self._expected, self._exact):
            self._only_alone = f"its window ({', '.join(windows)}) is wider than the comparison can reach"

    def fault(self, way: Way) -> str | None:
        """What is wrong with a way, or None; the model is left in it."""
        if way.layout != "one_sequence" and self._only_alone:
            return self._only_alone
        if way.layout == "shared_prompt" and _caps_attention(self._language_model.config):
            return "its attention scores are soft-capped"
        try:
            self._model.use(way.layout, way.attention)
            with (
                _in_float32(self._language_model),
                self._model.computing_in("float32"),
                _set(self._language_model.config, self._short),
            ):
                fault = rounding_exceeded(self._model.logprobs(self._samples), self._expected)
            return fault or (self._bfloat16_fault() if self._model.dtype == "bfloat16" else None)
        except (
            Exception
        ) as error:  # a library's code with input that it was not made for: any error is an answer
            return _in_one_line(error)

    def untrained(self) -> str | None:
        """Which weights get no gradient in the way in which the model is, or None; no gradient is kept."""
        without = {parameter: name for name, parameter in self._language_model.named_parameters()}

        def forget(parameter: Tensor) -> None:
            without.pop(parameter, None)
            parameter.grad = None

        hooks = [parameter.register_post_accumulate_grad_hook(forget) for parameter in without]
        try:
            with torch.enable_grad():
                self._model.logprobs(self._samples).mean().backward()  # type: ignore[no-untyped-call]
        except Exception as error:  # as in `fault`
            return f"no gradient: {_in_one_line(error)}"
        finally:
            for hook in hooks:
                hook.remove()
        if not without:
            return None
        return f"{len(without)} of its tensors, among them {min(without.values())}, have no part in its log-probs"

    @contextmanager
    def _as_it_comes(self) -> Iterator[Any]:
        """The model in evaluation mode with eager attention."""
        model = self._language_model
        attention, training = model.config._attn_implementation, model.training
        model.set_attn_implementation("eager")
        model.eval()
        try:
            yield model
        finally:
            model.train(training)
            model.set_attn_implementation(attention)

    def _transformers(self) -> Tensor:
        with self._as_it_comes() as model:
            return own_logprobs(model, self._samples)

    def _refuse_sight_of_the_future(self) -> None:
        prompt, [completion, *_] = self._samples[0][:2]
        ids = torch.tensor([[*prompt, *completion]], device=self._language_model.device)
        with self._as_it_comes() as model:
            whole, half = (
                model(x, use_cache=False).logits.log_softmax(-1) for x in (ids, ids[:, : len(prompt)])
            )
        if rounding_exceeded(half, whole[:, : len(prompt)]):
            raise ModelError(f"{architecture(self._language_model)} sees the tokens that it is to predict")

    def _bfloat16_fault(self) -> str | None:
        found = (self._model.logprobs(self._samples) - self._exact).abs().mean().item()
        with torch.autocast(self._language_model.device.type, torch.bfloat16):
            own = (self._transformers() - self._exact).abs().mean().item()
        if found <= BFLOAT16_FLOOR + BFLOAT16_FACTOR * own:
            return None
        return (
            f"mean error of log-probs in bfloat16 {found:.1e} nats, of the model's own forward pass {own:.1e}"
        )


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def _windows(config: Any) -> list[str]:
    """The keys that let a layer see the last tokens only, of which the short input does not reach the edge."""
    layers = getattr(config, "layer_types", None)
    if layers and not {"sliding_attention", "chunked_attention"} & set(layers):
        return []
    return [
        key
        for key, value in vars(config).items()
        if ("window" in key or key == "attention_chunk_size")
        and key != "max_window_layers"
        and type(value) is int
        and value > SHORT_WINDOW
    ]


def _caps_attention(config: Any) -> bool:
    """Whether attention scores are soft-capped, which eager attention alone does; small scores would not show it."""
    return any("att" in key for key in _caps(config))


def _caps_logits(config: Any) -> str | None:
    """Whether the model's own head soft-caps the logits; small ones, of a young model, would not show it."""
    keys = [key for key in _caps(config) if "att" not in key]
    return f"its logits are soft-capped ({', '.join(keys)})" if keys else None


def _caps(config: Any) -> list[str]:
    return [
        key
        for key, value in keys_of(config.to_dict())
        if value and "cap" in key and ("att" in key or "logit" in key)
    ]


def _changes_with_length(config: Any) -> str | None:
    """Whether a long sequence changes the rotary embedding of every other in its row; a short input cannot show it."""
    for key, value in keys_of(config.to_dict()):
        if key in ("rope_type", "type") and value in ("dynamic", "longrope"):
            return f"its rotary embedding ({value}) follows the longest sequence of a row"
    return None


@contextmanager
def _set(settings: Any, values: Mapping[str, Any]) -> Iterator[None]:
    held = {key: getattr(settings, key) for key in values}
    try:
        for key, value in values.items():
            setattr(settings, key, value)
        yield
    finally:
        for key, value in held.items():
            setattr(settings, key, value)


@contextmanager
def _in_float32(model: Any) -> Iterator[None]:
    """Hold every tensor in float32 for a moment; widening loses nothing, so that the way back gives the same."""
    tensors = [*model.parameters(), *model.buffers()]
    held = [tensor.dtype for tensor in tensors]
    try:
        for tensor in tensors:
            if tensor.is_floating_point():
                tensor.data = tensor.data.float()
        yield
    finally:
        for tensor, dtype in zip(tensors, held, strict=True):
            tensor.data = tensor.data.to(dtype)

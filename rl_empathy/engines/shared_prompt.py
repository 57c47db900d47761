"""The trainer's layout: a prompt once, then its completions, each attending to the prompt and to itself.

    tokens     p0 p1 p2 | a0 a1 a2 | b0 b1            one tree: a prompt with two completions
    positions   0  1  2    3  4  5    3  4            restart after the prompt
    predicts         a0   a1 a2 ·    b1 ·             a completion's first token comes from the prompt's last one

G completions of a long prompt cost P + G·C tokens instead of G·(P + C). The last token of a completion predicts
nothing and is not fed. The idea is Prefix Grouper (arXiv:2506.05433); a row may hold several trees, so a micro-batch
is filled by tokens and never padded. Only attention sees the trees: everything else in a model works token by token.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

Layout = Literal["shared_prompt", "packed", "one_sequence"]
ATTENTION = "shared_prompt"


class Tree(NamedTuple):
    """Lengths of a prompt and of its completions as fed to the model, tokens."""

    prompt_tokens: int
    completion_tokens: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        return self.prompt_tokens + sum(self.completion_tokens)


class Sample(NamedTuple):
    """One prompt with any subset of its completions, as token ids, and what an objective says of each of their tokens.

    Example, a turn that the policy wrote, a turn of somebody else, and a turn of the policy's:
        prompt      = [1, 2]
        completions = [[10, 11, 20, 12]]
        loss_mask   = [[True, True, False, True]]
        advantages  = [[0.5, 0.5, 0.0, -1.0]]
    """

    prompt: Sequence[int]
    completions: Sequence[Sequence[int]]
    loss_mask: Sequence[Sequence[bool]] | None = None
    """Whether a token is trained; None: all are."""
    advantages: Sequence[Sequence[float]] | None = None
    """What is to be gained by making a token likelier; None: nothing is said of it, and 0 is read."""
    indivisible: bool = False
    """The loss compares its completions, so they stay on one rank and in one micro-batch."""

    def part(self, start: int, end: int) -> "Sample":
        """The same prompt with its completions from `start` to `end`."""
        return Sample(
            self.prompt,
            self.completions[start:end],
            self.loss_mask and self.loss_mask[start:end],
            self.advantages and self.advantages[start:end],
            self.indivisible,
        )

    @property
    def num_trained_tokens(self) -> int:
        if self.loss_mask is None:
            return sum(map(len, self.completions))
        return sum(map(sum, self.loss_mask))


@dataclass(frozen=True, eq=False)
class PackedRow:
    """Trees side by side in one row, and where their completions' tokens are predicted.

    Tokens of completions are in order of samples, then completions, then tokens: `targets` and everything aligned
    with it ([predicted]: log-probs, advantages, masks) use this order.
    """

    input_ids: Tensor
    """[1, tokens] int"""
    position_ids: Tensor
    """[1, tokens] int"""
    trees: tuple[Tree, ...]
    predictors: Tensor
    """[predicted] int, the position in the row whose hidden state predicts each completion token."""
    targets: Tensor
    """[predicted] int, the completion tokens."""

    @property
    def num_tokens(self) -> int:
        return self.input_ids.numel()

    @cached_property
    def branches(self) -> tuple["Branches | None", ...]:
        """Index maps of each tree with completions, made once and used in every layer."""
        starts = torch.tensor([0, *(tree.num_tokens for tree in self.trees)]).cumsum(0).tolist()
        device = self.input_ids.device
        return tuple(
            Branches.of(tree, start, device) if tree.completion_tokens else None
            for tree, start in zip(self.trees, starts, strict=False)
        )


@dataclass(frozen=True, eq=False)
class Branches:
    """The completions of one tree as a padded batch: only inside attention, where padding costs little."""

    start: int
    """First token of the tree in its row."""
    gather: Tensor
    """[branches * longest] int, position in the row of every (padded) completion token."""
    scatter: Tensor
    """[completion tokens] int, place of every real token in the padded batch."""
    mask: Tensor
    """[longest, prompt_tokens + longest] bool, true where a completion token may look."""
    shape: tuple[int, int]
    """Branches, longest."""

    @classmethod
    def of(cls, tree: Tree, start: int, device: torch.device) -> "Branches":
        lengths = torch.tensor(tree.completion_tokens, device=device)
        longest = int(lengths.max())
        steps = torch.arange(longest, device=device)
        real = steps[None, :] < lengths[:, None]
        first = start + tree.prompt_tokens + lengths.cumsum(0) - lengths
        gather = first[:, None] + torch.minimum(steps[None, :], (lengths - 1).clamp(min=0)[:, None])
        gather = gather.clamp(max=start + tree.num_tokens - 1)
        columns = torch.arange(tree.prompt_tokens + longest, device=device)
        mask = columns[None, :] <= tree.prompt_tokens + steps[:, None]
        return cls(
            start, gather.flatten(), real.flatten().nonzero().squeeze(1), mask, (len(lengths), longest)
        )


@dataclass
class _Row:
    """A row that grows; see `PackedRow`."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    trees: list[Tree] = field(default_factory=list)
    predictors: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)

    def add_tree(self, prompt: Sequence[int], completions: Sequence[Sequence[int]]) -> None:
        last_of_prompt = len(self.ids) + len(prompt) - 1
        self.ids.extend(prompt)
        self.positions.extend(range(len(prompt)))
        for completion in completions:
            fed = completion[:-1]
            self.predictors.extend([last_of_prompt, *range(len(self.ids), len(self.ids) + len(fed))])
            self.targets.extend(completion)
            self.ids.extend(fed)
            self.positions.extend(range(len(prompt), len(prompt) + len(fed)))
        self.trees.append(Tree(len(prompt), tuple(len(c) - 1 for c in completions)))

    def add_sequence(self, prompt: Sequence[int], completion: Sequence[int]) -> None:
        start = len(self.ids)
        self.ids.extend([*prompt, *completion[:-1]])
        self.positions.extend(range(len(self.ids) - start))
        self.predictors.extend(range(start + len(prompt) - 1, len(self.ids)))
        self.targets.extend(completion)
        self.trees.append(Tree(len(self.ids) - start, ()))

    def packed(self, device: torch.device | str) -> PackedRow:
        def tensor(values: list[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.long, device=device)

        return PackedRow(
            tensor(self.ids)[None],
            tensor(self.positions)[None],
            tuple(self.trees),
            tensor(self.predictors),
            tensor(self.targets),
        )


def pack(samples: Sequence[Sample], *, layout: Layout, device: torch.device | str = "cpu") -> PackedRow:
    """Lay samples out in one row.

    Args:
        samples: Prompts of at least one token, with completions of at least one token.
        layout: "shared_prompt" as above; "packed" repeats the prompt before every completion, for models whose
            attention cannot be shaped (sliding windows); "one_sequence" does the same with one completion in all,
            for models in which one sequence of a row would change another (recurrent layers).
        device: Where the tensors are made.

    Returns:
        The row.
    """
    row = _Row()
    for sample in samples:
        if layout != "shared_prompt" or len(sample.completions) == 1:
            for completion in sample.completions:
                row.add_sequence(sample.prompt, completion)
        else:
            row.add_tree(sample.prompt, sample.completions)
    return row.packed(device)


def said_of_tokens(samples: Sequence[Sample]) -> tuple[Tensor, Tensor, Tensor]:
    """What samples say of their completions' tokens, in order of samples, completions, tokens.

    Returns:
        [predicted] bool, whether a token is trained; [predicted] its advantage; [predicted] int, which completion it
        belongs to.
    """
    lengths = torch.tensor([len(c) for sample in samples for c in sample.completions], dtype=torch.long)
    masks: list[bool] = []
    advantages: list[float] = []
    for sample in samples:
        count = sum(map(len, sample.completions))
        masks += [True] * count if sample.loss_mask is None else chain.from_iterable(sample.loss_mask)
        advantages += [0.0] * count if sample.advantages is None else chain.from_iterable(sample.advantages)
    return (
        torch.tensor(masks, dtype=torch.bool),
        torch.tensor(advantages, dtype=torch.float32),
        torch.arange(len(lengths)).repeat_interleave(lengths),
    )


def shared_prompt_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    row: PackedRow,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention over the trees of a row: each prompt causally, each completion over its prompt and itself.

    Signature and result are those of transformers' `AttentionInterface`.

    Args:
        module: The attention layer (unused).
        query: [1, heads, tokens, head_width].
        key: [1, key_value_heads, tokens, head_width].
        value: [1, key_value_heads, tokens, head_width].
        attention_mask: None; the trees say who sees whom.
        row: The row that is being fed.
        scaling: Factor of the scores; 1/sqrt(head_width) when None.

    Returns:
        [1, tokens, heads, head_width] and None.
    """
    repeats = query.shape[1] // key.shape[1]
    pieces = []
    start = 0
    for tree, branches in zip(row.trees, row.branches, strict=True):
        end = start + tree.prompt_tokens
        keys, values = (_repeat_heads(x[:, :, start:end], repeats) for x in (key, value))
        pieces.append(
            scaled_dot_product_attention(query[:, :, start:end], keys, values, is_causal=True, scale=scaling)
        )
        if branches is not None and branches.scatter.numel():
            pieces.append(_branch_attention(query, key, value, keys, values, branches, repeats, scaling))
        start += tree.num_tokens
    return torch.cat(pieces, dim=2).transpose(1, 2), None


def _branch_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prompt_keys: Tensor,
    prompt_values: Tensor,
    branches: Branches,
    repeats: int,
    scaling: float | None,
) -> Tensor:
    count, longest = branches.shape

    def as_batch(x: Tensor) -> Tensor:  # [1, heads, tokens, width] -> [branches, heads, longest, width]
        return x[0].index_select(1, branches.gather).unflatten(1, (count, longest)).transpose(0, 1)

    def after_prompt(prompt: Tensor, own: Tensor) -> Tensor:
        return torch.cat([prompt.expand(count, -1, -1, -1), _repeat_heads(as_batch(own), repeats)], dim=2)

    keys, values = after_prompt(prompt_keys, key), after_prompt(prompt_values, value)
    attended = scaled_dot_product_attention(
        as_batch(query), keys, values, attn_mask=branches.mask, scale=scaling
    )
    return attended.transpose(0, 1).flatten(1, 2).index_select(1, branches.scatter)[None]


def _repeat_heads(x: Tensor, repeats: int) -> Tensor:
    return x if repeats == 1 else x.repeat_interleave(repeats, dim=1)


def register() -> None:
    """Make this attention known to transformers; a model that uses it wants `row=` as a keyword of its forward pass."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(ATTENTION, shared_prompt_attention)
    AttentionMaskInterface.register(ATTENTION, lambda *_, **__: None)

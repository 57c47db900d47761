"""Which completions are trained together: shares of the ranks, and micro-batches by tokens."""

from collections.abc import Sequence

from rl_empathy.engines.shared_prompt import Layout, Sample


def fed_tokens(sample: Sample, layout: Layout) -> int:
    """Tokens that a sample adds to a row."""
    completions = sum(len(c) - 1 for c in sample.completions)
    copies = 1 if layout == "shared_prompt" else len(sample.completions)
    return copies * len(sample.prompt) + completions


def split_by_tokens(samples: Sequence[Sample], *, max_tokens: int, layout: Layout) -> list[list[Sample]]:
    """Cut samples into micro-batches of at most `max_tokens`, in order; completions of a prompt may be divided.

    What is longer than the budget, a completion or an indivisible sample, gets a micro-batch of its own, and in the
    layout "one_sequence" everything does.

    Args:
        samples: In the order in which their tokens are to be trained.
        max_tokens: Tokens a forward pass may hold.
        layout: See `pack`.

    Returns:
        Micro-batches whose samples, joined, hold the same completions in the same order.
    """
    batches: list[list[Sample]] = [[]]
    used = 0
    for sample in samples:
        start = 0
        for first, end in _pieces(sample):
            cost = _cost(sample, first, end, layout, is_first=first == start)
            if used and (layout == "one_sequence" or used + cost > max_tokens):
                if first > start:
                    batches[-1].append(sample.part(start, first))
                batches.append([])
                start, used = first, 0
                cost = _cost(sample, first, end, layout, is_first=True)
            used += cost
        batches[-1].append(sample.part(start, len(sample.completions)))
    return batches


def share_out(samples: Sequence[Sample], *, ranks: int, layout: Layout) -> list[list[Sample]]:
    """Cut samples into one share a rank, in order and about equal in tokens; completions of a prompt may be divided.

    A piece, a completion or an indivisible sample, belongs to the share in which the middle of its tokens lies, when
    all are laid end to end; so shares differ by about one piece, and by the prompts that are fed to two ranks.

    Args:
        samples: In the order in which their tokens are to be trained.
        ranks: Number of shares.
        layout: See `pack`.

    Returns:
        Shares that, joined, hold the same completions in the same order; some are empty when there are too few.
    """
    if ranks == 1:
        return [list(samples)]
    shares: list[list[Sample]] = [[] for _ in range(ranks)]
    total = sum(fed_tokens(sample, layout) for sample in samples)
    before = 0
    for sample in samples:
        bounds: dict[int, tuple[int, int]] = {}
        for first, end in _pieces(sample):
            cost = _cost(sample, first, end, layout, is_first=first == 0)
            rank = min(ranks - 1, int((before + cost / 2) * ranks / max(1, total)))
            bounds[rank] = (bounds.get(rank, (first, end))[0], end)
            before += cost
        for rank, (first, end) in bounds.items():
            shares[rank].append(sample.part(first, end))
    return shares


def _pieces(sample: Sample) -> list[tuple[int, int]]:
    """What of a sample stays together: first completion, and the one after the last."""
    count = len(sample.completions)
    return [(0, count)] if sample.indivisible else [(i, i + 1) for i in range(count)]


def _cost(sample: Sample, first: int, end: int, layout: Layout, *, is_first: bool) -> int:
    """Tokens that a piece adds to a row: the prompt is shared with the pieces of its sample that stand before it."""
    own = fed_tokens(sample.part(first, end), layout)
    return own if is_first or layout != "shared_prompt" else own - len(sample.prompt)


def micro_batches_of_rank(
    samples: Sequence[Sample], *, rank: int, ranks: int, max_tokens: int, layout: Layout
) -> tuple[list[list[Sample]], int]:
    """The micro-batches that one rank trains, as many for every rank: ZeRO waits for each rank in each of them.

    Args:
        samples: Samples of all ranks, in the order in which their tokens are to be trained.
        rank: Whose.
        ranks: Number of ranks.
        max_tokens: Tokens a forward pass may hold.
        layout: See `pack`.

    Returns:
        Micro-batches, the last ones empty where another rank has more; and the place of the first token to be
        predicted among those of all ranks.
    """
    shares = share_out(samples, ranks=ranks, layout=layout)
    batches = [split_by_tokens(share, max_tokens=max_tokens, layout=layout) for share in shares]
    most = max(len(of_one) for of_one in batches)
    start = sum(len(c) for share in shares[:rank] for sample in share for c in sample.completions)
    return batches[rank] + [[] for _ in range(most - len(batches[rank]))], start

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

    A single completion that is longer than the budget gets a micro-batch of its own, and in the layout
    "one_sequence" every completion does.

    Args:
        samples: In the order in which their tokens are to be trained.
        max_tokens: Tokens a forward pass may hold.
        layout: See `pack`.

    Returns:
        Micro-batches whose samples, joined, hold the same completions in the same order.
    """
    batches: list[list[Sample]] = [[]]
    used = 0
    for prompt, completions in samples:
        piece: list[Sequence[int]] = []
        for completion in completions:
            cost = len(completion) - 1 + (len(prompt) if not piece or layout != "shared_prompt" else 0)
            if used and (layout == "one_sequence" or used + cost > max_tokens):
                if piece:
                    batches[-1].append(Sample(prompt, piece))
                batches.append([])
                piece, used, cost = [], 0, len(completion) - 1 + len(prompt)
            piece.append(completion)
            used += cost
        batches[-1].append(Sample(prompt, piece))
    return batches


def share_out(samples: Sequence[Sample], *, ranks: int, layout: Layout) -> list[list[Sample]]:
    """Cut samples into one share a rank, in order and about equal in tokens; completions of a prompt may be divided.

    A completion belongs to the share in which the middle of its tokens lies, when all are laid end to end; so shares
    differ by about one completion, and by the prompts that are fed to two ranks.

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
    for prompt, completions in samples:
        pieces: dict[int, list[Sequence[int]]] = {}
        for number, completion in enumerate(completions):
            cost = len(completion) - 1 + (len(prompt) if number == 0 or layout != "shared_prompt" else 0)
            rank = min(ranks - 1, int((before + cost / 2) * ranks / max(1, total)))
            pieces.setdefault(rank, []).append(completion)
            before += cost
        for rank, piece in pieces.items():
            shares[rank].append(Sample(prompt, piece))
    return shares


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

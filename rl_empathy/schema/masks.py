"""From characters to tokens: which token wrote which part of a completion, for loss masks and lengths."""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence

from rl_empathy.schema.reading import Span


def offsets_of_ids(token_ids: Sequence[int], decode: Callable[[list[int]], str]) -> list[tuple[int, int]]:
    """Which characters [start, end) of `decode(token_ids)` each id wrote.

    An id ends where the text decoded so far stops agreeing with the whole text. So an id that only begins a
    character (byte-level BPE splits Chinese ones) advances nothing yet, and shares the offsets of the id that
    completes it. As in incremental detokenization only a window is decoded for each id: the ids that last
    agreed, for context, and those since. An id that wrote nothing gets an empty range.

    Args:
        token_ids: Sampled ids without the end token.
        decode: Ids to text; must keep special tokens and must not clean up spaces.
    """
    ids = list(token_ids)
    whole = decode(ids)
    context, read, settled, context_text = 0, 0, 0, ""
    ends: list[int] = []
    is_waiting: list[bool] = []
    for i in range(len(ids)):
        window = decode(ids[context : i + 1])[len(context_text) :]
        expected = whole[settled : settled + len(window)]
        differing = (k for k, (one, other) in enumerate(zip(window, expected, strict=False)) if one != other)
        agreed = settled + next(differing, len(expected))
        ends.append(max(agreed, ends[-1] if ends else 0))
        is_waiting.append(window != expected)
        if window and window == expected:
            context, read, settled = read, i + 1, agreed
            context_text = decode(ids[context:read])
    if ends:
        ends[-1] = len(whole)
    offsets = list(zip([0, *ends], ends, strict=False))
    for i in reversed(range(len(offsets) - 1)):
        if is_waiting[i] and offsets[i][0] == offsets[i][1]:
            offsets[i] = offsets[i + 1]
    return offsets


def span_token_masks(
    spans: Mapping[str, Span], token_offsets: Sequence[tuple[int, int]]
) -> dict[str, list[bool]]:
    """Say for each span which tokens wrote its text.

    Args:
        spans: Spans of the completion's text, as parsed.
        token_offsets: [tokens] characters [start, end) that each token wrote, starts not decreasing.

    Returns:
        Per span [tokens] bool: the token overlaps the text of the span. A token is in one span at most, the
        first that it overlaps; a token that wrote nothing is in none.
    """
    written = sorted(spans.items(), key=lambda item: item[1].start)
    masks = {name: [False] * len(token_offsets) for name in spans}
    span_ends = [span.end for _, span in written]
    for i, (start, end) in enumerate(token_offsets):
        # Spans are disjoint: the first that ends after the token's start is the first that it can overlap.
        nearest = bisect_left(span_ends, start + 1)
        if start < end and nearest < len(written) and written[nearest][1].start < end:
            masks[written[nearest][0]][i] = True
    return masks

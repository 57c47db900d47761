import pytest

from rl_empathy.data.prompts import PromptStream
from rl_empathy.types import Occurrence
from tests.fakes import make_row


def make_stream(num_rows: int = 5, **where: object) -> PromptStream:
    return PromptStream([(make_row(i), [1, 2, 3]) for i in range(num_rows)], seed=7, **where)  # type: ignore[arg-type]


def test_the_orders_of_the_epochs_are_those_of_earlier_runs() -> None:
    """A run also goes on after this package was changed; so they stand here as numbers."""
    taken = make_stream().take(12)
    assert [prompt.row.id for prompt in taken] == [f"row-{i}" for i in (1, 4, 3, 0, 2, 2, 3, 4, 1, 0, 0, 4)]


def test_an_occurrence_of_an_older_epoch_is_the_same_prompt_again() -> None:
    stream = make_stream()
    first = stream.take(17)
    stream.open_again([prompt.occurrence for prompt in first])
    assert stream.take(17) == first
    assert stream.take(1)[0].occurrence == Occurrence(3, 2)


@pytest.mark.parametrize(("stood", "goes_on"), [((3, 4), (3, 4)), ((3, 5), (4, 0)), ((3, 9), (4, 0))])
def test_a_cursor_beyond_the_rows_begins_the_next_epoch(
    stood: tuple[int, int], goes_on: tuple[int, int]
) -> None:
    stream = make_stream(num_rows=5)
    assert stream.go_to(Occurrence(*stood), []) == []
    assert [prompt.occurrence for prompt in stream.take(1)] == [goes_on]


def test_what_is_opened_and_has_no_row_any_more_is_named_and_not_given_out() -> None:
    stream = make_stream(num_rows=5)
    opened = [Occurrence(1, 6), Occurrence(1, 2), Occurrence(0, 5), Occurrence(0, 4)]
    assert stream.go_to(Occurrence(1, 8), opened) == [(1, 6), (0, 5)]
    assert stream.open_again([Occurrence(1, 3), Occurrence(1, 7)]) == [(1, 7)]
    assert [prompt.occurrence for prompt in stream.take(4)] == [(0, 4), (1, 2), (1, 3), (2, 0)]

import random
import time

from rl_empathy.data.prompts import PromptStream
from rl_empathy.types import Occurrence
from tests.fakes import make_row


def make_stream(num_rows: int = 5, **where: object) -> PromptStream:
    return PromptStream([(make_row(i), [1, 2, 3]) for i in range(num_rows)], seed=7, **where)  # type: ignore[arg-type]


def test_the_orders_of_the_epochs_are_those_of_earlier_runs() -> None:
    """Of a run that goes on after this package was changed, too; so they stand here as numbers."""
    taken = make_stream().take(12)
    assert [prompt.row.id for prompt in taken] == [f"row-{i}" for i in (1, 4, 3, 0, 2, 2, 3, 4, 1, 0, 0, 4)]


def test_an_occurrence_of_an_older_epoch_is_the_same_prompt_again() -> None:
    stream = make_stream()
    first = stream.take(17)
    for prompt in first:
        stream.open_again(prompt.occurrence)
    assert stream.take(17) == first
    assert stream.take(1)[0].occurrence == Occurrence(3, 2)


def test_a_thousand_prompts_cost_less_than_a_hundred_shuffles() -> None:
    """Also when each second one is of the epoch before."""
    num_rows = 10_000
    order, began = list(range(num_rows)), time.process_time()
    random.Random(0).shuffle(order)
    shuffle_s = time.process_time() - began
    stream = make_stream(num_rows, cursor=Occurrence(1, 0))
    began = time.process_time()
    for index in range(500):
        stream.open_again(Occurrence(0, index))
        stream.take(2)
    assert time.process_time() - began < 100 * shuffle_s

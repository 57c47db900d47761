"""Prompts with a completion each as columns of numbers, which the processes of a node map and need not copy."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Self

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

from rl_empathy.engines.shared_prompt import Sample

COLUMNS = ("prompt", "completion")
ARROW_SCHEMA = pa.schema([(name, pa.list_(pa.int32())) for name in COLUMNS])
_AT_ONCE = 4096


class TokenTable:
    """Samples of one completion each. A token takes four bytes here; as a number of Python's it takes 36."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> Self:
        """Write samples down, as they come.

        Raises:
            ValueError: One has several completions, or says something of its tokens.
        """
        coming, batches = iter(samples), []
        while some := list(islice(coming, _AT_ONCE)):
            if any(len(s.completions) != 1 or s.loss_mask or s.advantages for s in some):
                raise ValueError("a table holds samples of one completion, all of whose tokens are trained")
            columns = [[s.prompt for s in some], [s.completions[0] for s in some]]
            batches.append(
                pa.record_batch(
                    [pa.array(column, ARROW_SCHEMA.field(0).type) for column in columns], schema=ARROW_SCHEMA
                )
            )
        return cls(pa.Table.from_batches(batches, schema=ARROW_SCHEMA).combine_chunks())

    @classmethod
    def joined(cls, tables: Iterable["TokenTable"]) -> Self:
        """Several tables, one after the other."""
        return cls(pa.concat_tables([table._table for table in tables]).combine_chunks())

    @property
    def num_tokens(self) -> list[int]:
        """Tokens of each sample, of its prompt and completion together."""
        prompts, completions = (pc.list_value_length(self._table[name]) for name in COLUMNS)
        return pc.add(prompts, completions).to_pylist()  # type: ignore[no-any-return]

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, index: int) -> Sample:
        prompt, completion = (self._table[name][index].as_py() for name in COLUMNS)
        return Sample(prompt, [completion])

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

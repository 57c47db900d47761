"""Does a completion keep the form of the schema, and how long is it?"""

from collections.abc import Iterator

from rl_empathy.evaluation.measures.measure import Described, Evaluated, Measured, ReadCompletion, of_each
from rl_empathy.schema import ERROR_KINDS
from rl_empathy.types import Row

DESCRIBED = {
    "schema/valid_fraction": Described("higher", "completions that keep the form of the schema, and end"),
    "rollout/truncated_fraction": Described("lower", "completions that were cut at max_completion_tokens"),
    "rollout/completion_length_tokens": Described("neither", "in tokens of the model's own tokenizer"),
    r"schema/error/(.+)_fraction": Described("lower", "completions with the schema error {0}"),
    r"span/(.+)/present_fraction": Described("higher", "completions that have the span {0}"),
    r"span/(.+)/length_characters": Described("neither", "characters of the span {0}, where it is there"),
}


def measured(evaluated: Evaluated) -> Measured:
    def values(one: ReadCompletion, row: Row) -> Iterator[tuple[str, float]]:
        yield "schema/valid_fraction", float(one.strict.valid and one.scored.finish_reason == "stop")
        for kind in ERROR_KINDS:
            yield f"schema/error/{kind}_fraction", float(kind in one.strict.errors)
        yield "rollout/completion_length_tokens", float(one.scored.tokens)
        yield "rollout/truncated_fraction", float(one.scored.finish_reason == "length")
        for name in evaluated.schema.span_names:
            yield f"span/{name}/present_fraction", float(name in one.lenient.spans)
            if name in one.lenient.spans:
                yield f"span/{name}/length_characters", float(len(one.lenient.text_of(name)))

    return of_each(evaluated, values)

"""The output schema: which named spans a completion has, how they are written and read back.

spans ──render──> text ──parse──> spans with offsets ──span_token_masks──> loss masks and lengths
                    └── StreamingSplitter ──> reasoning | answer, as the text arrives

declaration   spans, delimiters and wrappers; `render`, `parse`, the instruction
reading       the spans in a text and the kinds of error, by a compiled schema
content       what the text of a span must be: words, others than in the other spans, no delimiter
streaming     reasoning and answer told apart while the text arrives
masks         from characters to tokens
shipped       the schemas that come with the package, by name
"""

from rl_empathy.schema.content import is_marker, is_seen, known_delimiter, letters
from rl_empathy.schema.declaration import OutputSchema, SpanConfig, WrapperConfig
from rl_empathy.schema.masks import offsets_of_ids, span_token_masks
from rl_empathy.schema.reading import ERROR_KINDS, ParsedCompletion, Span
from rl_empathy.schema.shipped import (
    CHAIN_OF_EMPATHY,
    KARDIA,
    NAMED_SCHEMAS,
    PLAIN,
    THINK_ANSWER,
    named_schema,
)
from rl_empathy.schema.streaming import StreamingSplitter

__all__ = [
    "CHAIN_OF_EMPATHY",
    "ERROR_KINDS",
    "KARDIA",
    "NAMED_SCHEMAS",
    "PLAIN",
    "THINK_ANSWER",
    "OutputSchema",
    "ParsedCompletion",
    "Span",
    "SpanConfig",
    "StreamingSplitter",
    "WrapperConfig",
    "is_marker",
    "is_seen",
    "known_delimiter",
    "letters",
    "named_schema",
    "offsets_of_ids",
    "span_token_masks",
]

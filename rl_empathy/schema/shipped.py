"""The schemas that come with the package, by name."""

import difflib
from collections.abc import Mapping

from rl_empathy.schema.declaration import OutputSchema, SpanConfig, WrapperConfig


def named_schema(name: str) -> OutputSchema:
    """The shipped schema of that name.

    Raises:
        ValueError: There is none; the text lists them.
    """
    if name not in NAMED_SCHEMAS:
        nearest = difflib.get_close_matches(name, NAMED_SCHEMAS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"unknown schema {name!r}, known: {', '.join(NAMED_SCHEMAS)}{hint}")
    return NAMED_SCHEMAS[name]


def _tag(name: str, en: str, zh: str) -> SpanConfig:
    return SpanConfig(
        name=name,
        open=f"<{name}>",
        close=f"</{name}>",
        hidden=name != "answer",
        description=en,
        description_zh=zh,
    )


def _token(name: str, en: str, zh: str) -> SpanConfig:
    tag = _tag(name, en, zh)
    update = {"open": f"<|{name}_begin|>", "close": f"<|{name}_end|>", "hidden": name != "response"}
    return tag.model_copy(update=update)


_REPLY = ("the answer to the help-seeker", "给求助者的回答")

CHAIN_OF_EMPATHY = OutputSchema(
    name="chain_of_empathy",
    spans=(
        _tag("L1", "emotions and context: what they feel, in which situation", "情绪与情境：感受及其处境"),
        _tag("L2", "causes and beliefs: why they feel so, what they believe", "原因与信念：感受的来由与想法"),
        _tag(
            "L3", "intent: do they seek validation, understanding or advice", "意图分析：寻求认可、理解或建议"
        ),
        _tag("L4", "strategy: how the answer should respond", "回应策略：如何据此回应"),
        _tag("answer", *_REPLY),
    ),
    wrappers=(WrapperConfig(open="<empathy_think>", close="</empathy_think>", first="L1", last="L4"),),
    between="",
)
"""Chain-of-Empathy of Empathy-R1 (arXiv:2509.14851). No white space between spans: what follows a closing tag is then
certain, which small models learn soonest."""

KARDIA = OutputSchema(
    name="kardia",
    spans=(
        _token("understanding", "what happened to the help-seeker", "求助者的处境"),
        _token("reasoning", "why they feel so, and what would help", "感受的来由与有益的回应"),
        _token("emotion", "one word for their emotion", "一个情绪词"),
        _token("response", *_REPLY),
    ),
    answer="response",
)
"""Four spans in special tokens, as in Kardia-R1 (arXiv:2512.01282)."""

THINK_ANSWER = OutputSchema(
    name="think_answer",
    spans=(_tag("think", "your reasoning about the help-seeker", "对求助者的思考"), _tag("answer", *_REPLY)),
    inside="\n",
)
"""Free reasoning, then the answer."""

PLAIN = OutputSchema(
    name="plain",
    spans=(SpanConfig(name="answer", description=_REPLY[0], description_zh=_REPLY[1]),),
)
"""The answer alone, without delimiters: the ablation of the reasoning."""

NAMED_SCHEMAS: Mapping[str, OutputSchema] = {
    schema.name: schema for schema in (CHAIN_OF_EMPATHY, KARDIA, THINK_ANSWER, PLAIN)
}

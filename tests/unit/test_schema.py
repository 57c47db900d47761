"""Reading and writing completions by schema."""

import pickle
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_empathy.schema import (
    CHAIN_OF_EMPATHY,
    ERROR_KINDS,
    KARDIA,
    NAMED_SCHEMAS,
    PLAIN,
    THINK_ANSWER,
    OutputSchema,
    Span,
    SpanConfig,
    StreamingSplitter,
    WrapperConfig,
    letters,
    named_schema,
    offsets_of_ids,
    span_token_masks,
)

HEADINGS = OutputSchema.model_validate(
    {
        "name": "headings",
        "inside": "\n",
        "between": "\n\n",
        "spans": [
            {"name": "analysis", "open": "# Analysis", "hidden": True},
            {"name": "intention", "open": "# Intention"},
            {"name": "answer", "open": "# Reply"},
        ],
    }
)
REPLY_AFTER_THINK = OutputSchema(
    name="reply_after_think",
    spans=(SpanConfig(name="think", open="<think>", close="</think>"), SpanConfig(name="answer")),
)
SCHEMAS = [CHAIN_OF_EMPATHY, KARDIA, THINK_ANSWER, PLAIN, HEADINGS, REPLY_AFTER_THINK]
SPANS = {
    "L1": "疲惫、委屈",
    "L2": "She believes\nshe failed.",
    "L3": "validation",
    "L4": "共情",
    "answer": "辛苦了。",
}
RENDERED = (
    "<empathy_think><L1>疲惫、委屈</L1><L2>She believes\nshe failed.</L2><L3>validation</L3><L4>共情</L4>"
    "</empathy_think><answer>辛苦了。</answer>"
)

schemas = st.sampled_from(SCHEMAS)
noise = st.sampled_from(
    ["", " ", "\n", "\u3000", "\xa0", "<", "</", "|>", "#", "a", "我很累", "\x00", "\ud800", "😀"]
)


@st.composite
def schema_and_text(draw: st.DrawFn) -> tuple[OutputSchema, str]:
    """A schema, and text made of whole, cut and wrong-case delimiters and noise; sometimes close to valid."""
    schema = draw(schemas)
    delimiters = st.sampled_from(schema.delimiters or ("<x>",))
    cut = st.builds(lambda delimiter, k: delimiter[:k], delimiters, st.integers(0, 8))
    piece = st.one_of(delimiters, delimiters.map(str.upper), cut, noise, st.text(max_size=3))
    soup = draw(st.lists(piece, max_size=20).map("".join))
    if draw(st.booleans()):
        return schema, soup
    rendered = schema.render({name: f"word {'abcde'[i]}" for i, name in enumerate(schema.span_names)})
    at, gone = draw(st.integers(0, len(rendered))), draw(st.integers(0, 12))
    return schema, rendered[:at] + draw(piece) + rendered[at + gone :]


@st.composite
def schema_and_spans(draw: st.DrawFn) -> tuple[OutputSchema, dict[str, str]]:
    """A schema, and texts for its spans: words mostly, now and then delimiters, noise or nothing."""
    schema = draw(schemas)
    piece = st.one_of(noise, st.sampled_from(schema.delimiters or ("<x>",)))
    text = st.one_of(
        st.text(max_size=20), st.lists(noise).map("".join), st.lists(piece, max_size=4).map("".join)
    )
    words = (draw(st.sampled_from([f"{'abcdefgh'[i] * 3} ", ""])) for i in range(len(schema.spans)))
    return schema, {
        name: (word + draw(text)).strip() for name, word in zip(schema.span_names, words, strict=True)
    }


def errors(text: str, schema: OutputSchema = CHAIN_OF_EMPATHY, *, strict: bool = True) -> tuple[str, ...]:
    return schema.parse(text, strict=strict).errors


def test_chain_of_empathy_renders_its_tags_side_by_side() -> None:
    assert CHAIN_OF_EMPATHY.render(SPANS) == RENDERED
    assert CHAIN_OF_EMPATHY.parse(RENDERED, strict=True).valid


def test_span_offsets_point_at_the_inner_text() -> None:
    span = CHAIN_OF_EMPATHY.parse("<L1>\n 累 \n</L1>", strict=False).spans["L1"]
    assert span == Span(text="累", start=6, end=7)


def test_an_absent_span_is_missing() -> None:
    assert errors(RENDERED.replace("<L3>validation</L3>", "")) == ("missing",)


def test_an_absent_wrapper_is_missing_only_when_strict() -> None:
    bare = RENDERED.replace("<empathy_think>", "").replace("</empathy_think>", "")
    assert errors(bare) == ("missing",)
    assert errors(bare, strict=False) == ()


def test_swapped_spans_are_out_of_order() -> None:
    swapped = RENDERED.replace("<L3>validation</L3><L4>共情</L4>", "<L4>共情</L4><L3>validation</L3>")
    assert errors(swapped) == ("order",)
    assert errors(swapped, strict=False) == ()


def test_a_second_answer_is_a_duplicate_and_the_first_one_counts() -> None:
    parsed = CHAIN_OF_EMPATHY.parse(RENDERED + "<answer>again</answer>", strict=True)
    assert parsed.errors == ("duplicate",)
    assert parsed.text_of("answer") == "辛苦了。"


def test_a_blank_span_is_empty_in_both_modes() -> None:
    blank = RENDERED.replace("共情", " \u3000")
    assert errors(blank) == errors(blank, strict=False) == ("empty",)


@pytest.mark.parametrize("text", ["Hello. " + RENDERED, RENDERED + "x", RENDERED.replace("<L2>", "and <L2>")])
def test_text_beside_the_spans_is_text_outside(text: str) -> None:
    assert errors(text) == ("text_outside",)
    assert errors(text, strict=False) == ()


@pytest.mark.parametrize(
    "text",
    [
        RENDERED + "\n",
        RENDERED.replace("<L1>", "\n<L1>"),
        RENDERED.replace("<L1>", "<l1>"),
        RENDERED.replace("L4>共", "L4> 共"),
    ],
)
def test_another_layout_is_text_outside(text: str) -> None:
    assert errors(text) == ("text_outside",)
    assert errors(text, strict=False) == ()


def test_a_truncated_completion_is_unclosed_and_keeps_its_text() -> None:
    parsed = CHAIN_OF_EMPATHY.parse(RENDERED.removesuffix("了。</answer>"), strict=True)
    assert parsed.errors == ("unclosed",)
    assert parsed.text_of("answer") == "辛苦"


def test_an_unclosed_span_ends_at_the_next_delimiter() -> None:
    parsed = CHAIN_OF_EMPATHY.parse(RENDERED.replace("疲惫、委屈</L1>", "疲惫"), strict=True)
    assert parsed.errors == ("unclosed",)
    assert parsed.text_of("L1") == "疲惫"


def test_an_unclosed_wrapper_is_unclosed() -> None:
    assert errors(RENDERED.replace("</empathy_think>", "")) == ("unclosed",)


def test_errors_are_listed_once_in_the_order_of_the_kinds() -> None:
    text = "x<L2>.</L2><L1></L1><L1>a</L1> y <L3>Why [INST]</L3><L4>why [inst]</L4><answer>unclosed"
    assert errors(text) == ERROR_KINDS
    assert errors(text, strict=False) == ("empty",)


@pytest.mark.parametrize(
    "text", [".", "…", "😀🙏", "\u200b", "\u2060\ufeff", "\u3164\u3164\u3164\u115f", "___", "ok", "1️⃣"]
)
def test_a_span_without_words_is_wordless(text: str) -> None:
    completion = RENDERED.replace("共情", text)
    assert errors(completion) == ("wordless",)
    assert errors(completion, strict=False) == ()
    with pytest.raises(ValueError, match="'L4' has fewer than 3 letters"):
        CHAIN_OF_EMPATHY.render(SPANS | {"L4": text})


@pytest.mark.parametrize(
    "text",
    ["sad", "Ёлка", "悲", "かな", "ｶﾅ", "슬픔", "حزن", "उदासी", "दुख", "ဝမ်း", "ማዘን", "เศร้า", "911", "I’m ok"],
)
def test_words_of_any_script_are_words(text: str) -> None:
    assert errors(RENDERED.replace("共情", text)) == ()


def test_letters_are_counted_without_marks_and_a_han_character_as_three() -> None:
    assert letters("I’m so sad!") == len("Imsosad")
    assert letters("辛苦了。") == 9
    assert letters("a\u200bb\u3164 — 😀 _") == 2


@pytest.mark.parametrize(
    "other",
    [
        "validation", "Validation!", " \u200bvalidation 2", "VALIDA\u200dTION 😀", "ｖａｌｉｄａｔｉｏｎ",
        "validation²", "validation\u3164", "validatio\u0320n",
    ],
)  # fmt: skip
def test_spans_with_the_same_words_are_repeated(other: str) -> None:
    assert errors(RENDERED.replace("共情", other.strip())) == ("repeated",)
    with pytest.raises(ValueError, match="spans 'L3' and 'L4' hold the same words"):
        CHAIN_OF_EMPATHY.render(SPANS | {"L4": other})


@pytest.mark.parametrize(
    "inside",
    [
        "<think>", "</THINK>", "<|im_start|>assistant", "<|im_end|>", "<|end|><|assistant|>", "<|eot_id|>",
        "<start_of_turn>model", "<｜Assistant｜>", "[INST]", "<<SYS>>", "</s>", "<|emotion_end|>", "<thi\u200bnk>",
        "<th\u17b4ink>", "<th\x08ink>", "<th\ufff0ink>", "＜think＞", "＜|im_end|＞",
    ],
)  # fmt: skip
def test_a_delimiter_of_a_template_or_of_another_schema_is_not_text(inside: str) -> None:
    completion = RENDERED.replace("辛苦了。", f"辛苦了。{inside} More.")
    assert errors(completion) == ("delimiter_inside",)
    with pytest.raises(ValueError, match="'answer' contains the delimiter"):
        CHAIN_OF_EMPATHY.render(SPANS | {"answer": f"辛苦了。{inside} More."})


@pytest.mark.parametrize("text", ["I <3 you, a < b > c", "<name> said [it]", "5 < 6 || |x|", "[sic] <sigh>"])
def test_angle_brackets_that_a_person_types_are_text(text: str) -> None:
    assert errors(RENDERED.replace("共情", text)) == ()


def test_spans_of_numbers_alone_are_repeated() -> None:
    assert errors(RENDERED.replace("共情", "911").replace("validation", "112")) == ("repeated",)


def test_a_delimiter_of_ones_own_schema_is_not_hidden_by_what_nobody_sees() -> None:
    schema = OutputSchema(name="bars", spans=(SpanConfig(name="answer", open="((A))", close="((Z))"),))
    assert errors("((A))I hear you. ((\u200bZ))((Z))", schema) == ("delimiter_inside",)


def test_thinking_is_no_answer_under_the_plain_schema() -> None:
    assert errors("<think>She is sad.</think>I hear you.", PLAIN) == ("delimiter_inside",)


@pytest.mark.parametrize("schema", NAMED_SCHEMAS.values(), ids=NAMED_SCHEMAS)
def test_no_delimiter_of_a_shipped_schema_is_text_in_another(schema: OutputSchema) -> None:
    assert [d for d in schema.delimiters if errors(f"I hear {d} you.", PLAIN) != ("delimiter_inside",)] == []


def test_the_minimum_and_further_delimiters_are_declared() -> None:
    spans = (
        SpanConfig(name="mood", open="<mood>", min_letters=2),
        SpanConfig(name="answer", open="<answer>"),
    )
    schema = OutputSchema(name="mine", spans=spans, between="", min_letters=12, forbidden=("USER:",))
    assert errors("<mood>ok<answer>I hear you well.", schema) == ()
    assert errors("<mood>ok<answer>I hear you.", schema) == ("wordless",)
    assert errors("<mood>ok<answer>I hear you. User: I see.", schema) == ("delimiter_inside",)


def test_a_shipped_schema_takes_other_settings_by_its_name() -> None:
    schema = OutputSchema.model_validate({"name": "chain_of_empathy", "min_letters": 40})
    assert schema == CHAIN_OF_EMPATHY.model_copy(update={"min_letters": 40})


def test_plain_prose_misses_every_span() -> None:
    assert CHAIN_OF_EMPATHY.parse("I am sorry to hear that.", strict=False).spans == {}
    assert errors("I am sorry to hear that.", strict=False) == ("missing",)


def test_special_tokens_are_written_and_read() -> None:
    spans = {
        "understanding": "lost a job",
        "reasoning": "fear",
        "emotion": "afraid",
        "response": "That is hard.",
    }
    rendered = KARDIA.render(spans)
    assert rendered.startswith("<|understanding_begin|>lost a job<|understanding_end|>\n<|reasoning_begin|>")
    assert errors(rendered, KARDIA) == ()
    assert errors(rendered.replace("<|emotion_end|>", ""), KARDIA) == ("unclosed",)


def test_a_heading_span_ends_at_the_next_heading() -> None:
    text = "# Analysis\n工作压力\n\n# Intention\ncomfort\n\n# Reply\n抱抱你。"
    parsed = HEADINGS.parse(text, strict=True)
    assert parsed.valid
    assert {name: span.text for name, span in parsed.spans.items()} == {
        "analysis": "工作压力",
        "intention": "comfort",
        "answer": "抱抱你。",
    }
    assert HEADINGS.reasoning(parsed) == "工作压力\ncomfort"
    assert HEADINGS.reasoning(parsed, with_hidden=False) == "comfort"


def test_an_answer_without_delimiters_follows_the_thinking() -> None:
    parsed = REPLY_AFTER_THINK.parse("<think>why</think>\nHere.", strict=True)
    assert parsed.valid
    assert parsed.text_of("answer") == "Here."


def test_the_plain_schema_takes_the_whole_text() -> None:
    assert PLAIN.parse("Just this.", strict=True).text_of("answer") == "Just this."
    assert errors("", PLAIN) == ("empty",)
    assert PLAIN.delimiters == ()


def test_delimiters_are_listed_in_the_order_of_rendering() -> None:
    assert CHAIN_OF_EMPATHY.delimiters[:3] == ("<empathy_think>", "<L1>", "</L1>")
    assert CHAIN_OF_EMPATHY.delimiters[-3:] == ("</empathy_think>", "<answer>", "</answer>")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"L1": " \n"}, "'L1' .* is empty"),
        ({"L1": "use <l2> here"}, "contains the delimiter '<l2>'"),
        ({"L5": "more"}, "no span 'L5'"),
    ],
)
def test_render_rejects_spans_that_cannot_be_written(change: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CHAIN_OF_EMPATHY.render(SPANS | change)


def test_render_rejects_a_missing_span() -> None:
    with pytest.raises(ValueError, match=r"'L1' .* is missing"):
        CHAIN_OF_EMPATHY.render({"answer": "hello"})


def test_render_rejects_a_text_that_runs_into_a_delimiter() -> None:
    schema = OutputSchema(name="bars", spans=(SpanConfig(name="answer", open="[[", close="||"),))
    with pytest.raises(ValueError, match="cannot read these spans back"):
        schema.render({"answer": "able|"})


@pytest.mark.parametrize(
    ("declaration", "message"),
    [
        ({"spans": []}, "at least 1 item"),
        ({"spans": [{"name": "answer", "open": "a>"}, {"name": "answer", "open": "b>"}]}, "more than once"),
        ({"spans": [{"name": "reply", "open": "<r>"}]}, "no span is named 'answer'"),
        ({"spans": [{"name": "answer", "open": "<a>", "close": "<A>"}]}, "contain one another"),
        (
            {"spans": [{"name": "x", "open": "# A"}, {"name": "answer", "open": "## A"}]},
            "contain one another",
        ),
        ({"spans": [{"name": "x", "open": "# A"}, {"name": "answer"}]}, "where span 'answer' begins"),
        ({"spans": [{"name": "answer", "open": "# A\n"}]}, "white space around it"),
        ({"spans": [{"name": "answer", "hidden": True}]}, "is hidden"),
        ({"spans": [{"name": "answer"}], "inside": "-"}, "match pattern"),
        ({"spans": [{"name": "answer", "opens": "<a>"}]}, "Extra inputs"),
    ],
)
def test_ambiguous_declarations_are_rejected(declaration: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OutputSchema.model_validate({"name": "mine", **declaration})


def test_overlapping_wrappers_are_rejected() -> None:
    wrappers = (
        WrapperConfig(open="<w>", close="</w>", first="L1", last="L2"),
        WrapperConfig(open="<v>", close="</v>", first="L2", last="L4"),
    )
    with pytest.raises(ValueError, match="without overlap"):
        OutputSchema(name="mine", spans=CHAIN_OF_EMPATHY.spans, wrappers=wrappers)


def test_an_unknown_schema_name_suggests_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"known: chain_of_empathy, .*did you mean 'chain_of_empathy'\?"):
        named_schema("chain_of_emphaty")


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.name)
def test_a_schema_survives_yaml_and_pickle(schema: OutputSchema) -> None:
    schema.parse("x", strict=True)
    assert OutputSchema.model_validate(schema.model_dump()) == schema
    assert pickle.loads(pickle.dumps(schema)).delimiters == schema.delimiters


@pytest.mark.parametrize("schema", NAMED_SCHEMAS.values(), ids=NAMED_SCHEMAS)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_instruction_shows_every_delimiter(schema: OutputSchema, language: str) -> None:
    text = schema.instruction("zh" if language == "zh" else "en")
    assert all(delimiter in text for delimiter in schema.delimiters)
    assert ("求助者" in text) == (language == "zh")


@given(schema_and_text())
def test_strict_accepts_exactly_what_render_writes(case: tuple[OutputSchema, str]) -> None:
    schema, text = case
    parsed = schema.parse(text, strict=True)
    texts = {name: span.text for name, span in parsed.spans.items()}
    try:
        is_rendered = schema.render(texts) == text
    except ValueError:
        is_rendered = False
    assert parsed.valid == is_rendered


@given(schema_and_text())
def test_both_modes_find_the_same_disjoint_spans(case: tuple[OutputSchema, str]) -> None:
    schema, text = case
    strict, lenient = schema.parse(text, strict=True), schema.parse(text, strict=False)
    assert strict.spans == lenient.spans
    assert set(lenient.errors) <= set(strict.errors) & {"missing", "empty"}
    assert all(text[span.start : span.end] == span.text for span in strict.spans.values())
    ordered = sorted(span[1:] for span in strict.spans.values())
    assert all(one[1] <= other[0] for one, other in pairwise(ordered))


def written_out(schema: OutputSchema, spans: dict[str, str]) -> str:
    """The form as the fields of a schema declare it, whatever the spans hold."""
    blocks = []
    for span in schema.spans:
        blocks += [wrapper.open for wrapper in schema.wrappers if wrapper.first == span.name]
        blocks.append(schema.inside.join(filter(None, [span.open, spans[span.name], span.close])))
        blocks += [wrapper.close for wrapper in schema.wrappers if wrapper.last == span.name]
    return schema.between.join(blocks)


@given(schema_and_spans())
def test_render_writes_spans_exactly_when_strict_reads_them_back(
    case: tuple[OutputSchema, dict[str, str]],
) -> None:
    schema, spans = case
    text = written_out(schema, spans)
    parsed = schema.parse(text, strict=True)
    reads_back = parsed.valid and {name: span.text for name, span in parsed.spans.items()} == spans
    try:
        rendered = schema.render(spans)
    except ValueError:
        assert not reads_back
    else:
        assert rendered == text
        assert reads_back


@given(schema_and_text(), st.lists(st.integers(1, 7), max_size=60), st.booleans())
def test_the_splitter_gives_the_parsed_text_however_it_is_cut(
    case: tuple[OutputSchema, str], cuts: list[int], with_hidden: bool
) -> None:
    schema, text = case
    splitter, pieces, rest = StreamingSplitter(schema, with_hidden=with_hidden), [], text
    for size in cuts:
        pieces += splitter.feed(rest[:size])
        rest = rest[size:]
    pieces += splitter.feed(rest) + splitter.close()
    parsed = schema.parse(text, strict=False)
    assert "".join(piece for part, piece in pieces if part == "answer") == parsed.text_of(schema.answer)
    reasoning = schema.reasoning(parsed, with_hidden=with_hidden)
    assert "".join(piece for part, piece in pieces if part == "reasoning") == reasoning


def test_the_splitter_writes_text_as_soon_as_it_cannot_be_a_delimiter() -> None:
    splitter = StreamingSplitter(THINK_ANSWER)
    assert splitter.feed("<think>\nwhy <") == [("reasoning", "why")]
    assert splitter.feed("3") == [("reasoning", " <3")]
    assert splitter.feed("</thi") == []
    assert splitter.feed("nk><answer>Hi") == [("answer", "Hi")]
    assert splitter.feed(" </ans") == []
    assert splitter.close() == [("answer", " </ans")]


def decode_bytes(ids: list[int]) -> str:
    return bytes(ids).decode("utf-8", errors="replace")


def test_the_ids_of_a_split_character_share_its_offsets() -> None:
    # 累 is e7 b4 af: three ids, one character.
    assert offsets_of_ids(list("a累b".encode()), decode_bytes) == [(0, 1), (1, 2), (1, 2), (1, 2), (2, 3)]


def test_an_id_that_ends_one_character_and_begins_another_keeps_the_first() -> None:
    pieces = {1: b"a", 2: b"b\xe7", 3: b"\xb4\xaf"}
    offsets = offsets_of_ids([1, 2, 3], lambda ids: decode_bytes(list(b"".join(pieces[i] for i in ids))))
    assert offsets == [(0, 1), (1, 2), (2, 3)]


def test_a_character_that_is_never_completed_has_offsets_too() -> None:
    assert offsets_of_ids([0xE7], decode_bytes) == [(0, 1)]
    assert offsets_of_ids([], decode_bytes) == []


@given(
    st.lists(
        st.one_of(
            st.integers(0, 255).map(lambda b: bytes([b])),
            st.text(max_size=2).map(lambda t: t.encode("utf-8", "replace")),
            st.sampled_from([b"\xe4", b"\xbd", b"\xa0", b"\xf0\x9f", b"\xef\xbf\xbd"]),
        ),
        max_size=30,
    )
)
def test_offsets_agree_with_decoding_every_prefix(pieces: list[bytes]) -> None:
    def decode(ids: list[int]) -> str:
        return b"".join(pieces[i] for i in ids).decode("utf-8", errors="replace")

    ids = list(range(len(pieces)))
    whole, offsets, agreed = decode(ids), offsets_of_ids(ids, decode), 0
    covered = set()
    for i, (start, end) in enumerate(offsets):
        prefix = decode(ids[: i + 1])
        agreed = max(
            agreed,
            next((k for k, (a, b) in enumerate(zip(prefix, whole, strict=False)) if a != b), len(prefix)),
        )
        assert start <= end
        assert end >= agreed
        covered.update(range(start, end))
    assert covered == set(range(len(whole)))
    assert offsets == sorted(offsets)
    assert not offsets or offsets[-1][1] == len(whole)


def test_offsets_decode_only_a_window_for_each_id() -> None:
    lengths: list[int] = []

    def decode(ids: list[int]) -> str:
        lengths.append(len(ids))
        return decode_bytes(ids)

    ids = list("我很累，😀 tired.".encode()) * 20
    offsets_of_ids(ids, decode)
    assert lengths[0] == len(ids)
    assert max(lengths[1:]) <= 8


def test_masks_mark_the_tokens_of_each_span_and_no_delimiter() -> None:
    # One id a byte: "累" is bytes 4-6, "好!" is bytes 21-24.
    text = "<L1>累</L1>\n<answer>好!</answer>"
    spans = CHAIN_OF_EMPATHY.parse(text, strict=False).spans
    masks = span_token_masks(spans, offsets_of_ids(list(text.encode()), decode_bytes))
    assert {name: [i for i, marked in enumerate(mask) if marked] for name, mask in masks.items()} == {
        "L1": [4, 5, 6],
        "answer": [21, 22, 23, 24],
    }


def test_a_token_over_two_spans_belongs_to_the_first_and_an_empty_token_to_none() -> None:
    spans = {"a": Span("xx", 0, 2), "b": Span("yy", 3, 5)}
    masks = span_token_masks(spans, [(0, 0), (0, 1), (1, 4), (4, 4), (4, 6), (6, 7)])
    assert masks == {
        "a": [False, True, True, False, False, False],
        "b": [False, False, False, False, True, False],
    }


@given(schema_and_text(), st.lists(st.integers(0, 4), max_size=80))
def test_masks_are_disjoint_and_cover_the_spans(case: tuple[OutputSchema, str], sizes: list[int]) -> None:
    schema, text = case
    offsets, position = [], 0
    for size in [*sizes, len(text)]:
        offsets.append((position, min(position + size, len(text))))
        position = offsets[-1][1]
    spans = schema.parse(text, strict=False).spans
    masks = span_token_masks(spans, offsets)
    for i, (start, end) in enumerate(offsets):
        overlapped = [name for name, span in spans.items() if max(start, span.start) < min(end, span.end)]
        marked = [name for name, mask in masks.items() if mask[i]]
        assert marked == sorted(overlapped, key=lambda name: spans[name].start)[:1]


@pytest.mark.parametrize(
    ("name", "spans", "written"),
    [
        ("think_answer", {"answer": "I hear you."}, "<answer>\nI hear you.\n</answer>"),
        ("chain_of_empathy", {"answer": "I hear you."}, "<answer>I hear you.</answer>"),
        (
            "chain_of_empathy",
            {"L2": "They feel alone.", "answer": "I hear you."},
            "<empathy_think><L2>They feel alone.</L2></empathy_think><answer>I hear you.</answer>",
        ),
    ],
)
def test_spans_that_a_row_lacks_are_left_out_with_their_delimiters_and_the_text_is_not_valid(
    name: str, spans: dict[str, str], written: str
) -> None:
    schema = named_schema(name)
    assert schema.render(spans, partial=True) == written
    parsed = schema.parse(written, strict=True)
    assert {name: span.text for name, span in parsed.spans.items()} == spans
    assert "missing" in parsed.errors
    with pytest.raises(ValueError, match="is missing"):
        schema.render(spans)


def test_an_answer_is_never_left_out() -> None:
    with pytest.raises(ValueError, match=r"span 'answer' .* is missing"):
        named_schema("think_answer").render({"think": "They feel alone."}, partial=True)

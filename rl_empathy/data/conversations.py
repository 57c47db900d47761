"""Conversations to token ids by the model's own chat template, in which text is never structure.

What people wrote is content. Where it holds a token or a marker of the template (<|im_start|>, [INST], <think>), or
the name of a role as the template writes it (User:), that is broken up, so that the model reads the characters and not
the role. Everything else has exactly the ids of `tokenizer.apply_chat_template`.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import Any, Literal, NamedTuple

from rl_empathy.data.templates import template_trace
from rl_empathy.errors import DataError, ModelError
from rl_empathy.observability.shown import shown
from rl_empathy.schema import OutputSchema, is_marker, known_delimiter
from rl_empathy.types import Message, Row

SEEN_BEFORE = 16
"""More tokens than any character takes, of which the prompt's end may hold a part."""
_BEFORE = ("x", "\n", ">")
"""Ends of prompts, from which a completion goes on."""
_BREAK = "\ufdd0"
"""Breaks a token up; no text holds it, and its own ids are taken out again."""
_CONTENT = "Qcontentq"
"""What every message of the example says."""
_ROLE_NAME = re.compile(rf"([^\s<>|\[\]]{{1,40}}[:：])\s*(?:{_CONTENT}|$)")
_WRITTEN_MARKER = re.compile(r"<[^<>\s'\"{}%]{1,60}>|\[/?[A-Z][A-Z_]{1,40}\]")


class Markers(NamedTuple):
    """What stands for structure in a model's prompts."""

    tokens: tuple[str, ...]
    """Markers that are one token each."""
    words: tuple[str, ...]
    """Markers that the chat template writes in plain characters."""
    roles: tuple[str, ...]
    """Names of roles, with their colon, that it writes in plain characters."""
    ids: frozenset[int]
    """Ids of `tokens`, but for that of unknown characters."""


def prompt_messages(row: Row, system_prompt: str) -> list[Message]:
    """The row's conversation, after a system message where one is wanted and the row brings none."""
    if system_prompt and row.messages[0].role != "system":
        return [Message(role="system", content=system_prompt), *row.messages]
    return list(row.messages)


def prompt_token_ids(tokenizer: Any, messages: Sequence[Message], *, system_prompt: str = "") -> list[int]:
    """Render a prompt up to where the assistant begins to write.

    Args:
        tokenizer: A transformers tokenizer with a chat template.
        messages: The conversation as people wrote it; the last message is the user's.
        system_prompt: The run's own instruction, put before a conversation that brings none. It may name the
            delimiters of the schema, which stay tokens.

    Returns:
        Token ids, special tokens included once.

    Raises:
        DataError: The chat template refuses the conversation, or a text would become structure.
        ModelError: There is no chat template.
    """
    if not tokenizer.chat_template:
        raise ModelError(
            f"{tokenizer.name_or_path} has no chat template; put one into the folder, as chat_template.jinja"
        )
    instruction = system_prompt if system_prompt and messages[0].role != "system" else ""
    markers = markers_of(tokenizer)
    texts = [_broken(message.content, markers) for message in messages]
    chat = [{"role": m.role, "content": text} for m, text in zip(messages, texts, strict=True)]
    ids = _ids(tokenizer, instruction, chat)
    if any(_BREAK in text for text in texts) or _may_hold_structure(texts):
        plain = [{"role": m.role, "content": "x"} for m in messages]
        surplus = _structure(ids, markers) - _structure(_ids(tokenizer, instruction, plain), markers)
        if surplus:
            raise DataError(f"its text becomes the token {tokenizer.convert_ids_to_tokens(min(surplus))!r}")
    return ids


def completion_token_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a written completion, with the end token that sampling would have ended on.

    A completion goes on from its prompt. Some tokenizers put a space before the first word of every text; with that
    space the completion would be read as another text than was written.
    """
    best, most = list[int](), -1
    for before in ("", *_BEFORE):
        head, whole = _encoded_once(tokenizer, before), _encoded(tokenizer, before + text)
        if whole[: len(head)] != head:
            continue
        ids = whole[len(head) :]
        read = read_after(tokenizer, head or _encoded_once(tokenizer, _BEFORE[0]), ids)
        agreed = len([*takewhile(lambda pair: pair[0] == pair[1], zip(read, text, strict=False))])
        if agreed > most:
            best, most = ids, agreed
        if read == text:
            break
    return [*best, tokenizer.eos_token_id]


def target_token_ids(tokenizer: Any, prompt: Sequence[int], text: str, schema: OutputSchema) -> list[int]:
    """Token ids of a fine-tuning target, which an engine that samples them reads in the form in which it is written.

    Raises:
        DataError: The tokenizer cannot write the text, so a completion would never be valid.
    """
    ids = completion_token_ids(tokenizer, text)
    read = read_after(tokenizer, prompt, ids[:-1])
    if read != text and schema.parse(read, strict=True).errors != schema.parse(text, strict=True).errors:
        raise DataError(f"the tokenizer writes its target as {shown(read)}, which breaks the form")
    return ids


def read_after(tokenizer: Any, prompt: Sequence[int], ids: Sequence[int]) -> str:
    """The text of a completion's ids, as an engine reads them after the prompt's.

    What stands further back than the prompt's last tokens does not change it.
    """
    last = [*prompt[-SEEN_BEFORE:]]
    before, whole = (
        tokenizer.decode(part, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        for part in (last, [*last, *ids])
    )
    return str(whole.removeprefix(before))


@lru_cache(maxsize=64)
def _encoded_once(tokenizer: Any, text: str) -> list[int]:
    return _encoded(tokenizer, text)


def _encoded(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def markers_of(tokenizer: Any) -> Markers:
    """The tokens and written markers that make structure in the prompts of this tokenizer."""
    template = tokenizer.chat_template
    return _markers(tokenizer, template if isinstance(template, str) else "")


def schema_beside(schema: OutputSchema, tokenizer: Any) -> OutputSchema:
    """The schema, which takes no token, written marker or role of this tokenizer's prompts as the text of a span."""
    markers = markers_of(tokenizer)
    others = [
        m
        for m in (*markers.tokens, *markers.words)
        if is_marker(m) and m not in schema.delimiters and not known_delimiter(m)
    ]
    others += [f"\n{role}" for role in markers.roles]
    if not others:
        return schema
    declared = schema.model_dump() | {"forbidden": tuple(dict.fromkeys([*schema.forbidden, *others]))}
    return OutputSchema.model_validate(declared)


@lru_cache(maxsize=8)
def _markers(tokenizer: Any, template: str) -> Markers:
    added = tokenizer.added_tokens_decoder
    tokens = {i: str(t) for i, t in added.items() if (t.special or is_marker(str(t))) and len(str(t)) > 1}
    example = _example(tokenizer)
    written = set(_WRITTEN_MARKER.findall(template + example)) - set(tokens.values())
    return Markers(
        tokens=tuple(tokens.values()),
        words=tuple(sorted(written)),
        roles=tuple(sorted(set(_ROLE_NAME.findall(example)))),
        ids=frozenset(tokens) - {tokenizer.unk_token_id},
    )


def _example(tokenizer: Any) -> str:
    """A conversation as the template writes it: markers that it puts together from pieces are seen here."""
    talk = [{"role": role, "content": _CONTENT} for role in ("system", "user", "assistant", "user")]
    for chat in (talk, talk[1:], talk[1:2]):
        try:
            return str(tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))
        except Exception:  # as in `_ids`
            continue
    return ""


@lru_cache(maxsize=16)
def _pattern(markers: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(markers, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)", re.IGNORECASE)


def _broken(text: str, markers: Markers) -> str:
    """The text with every marker broken after its first character, and every role's name before its colon."""
    for role in markers.roles:
        text = text.replace(role, f"{role[:-1]} {role[-1]}")
    return _parted(_parted(text, markers.words, " "), markers.tokens, _BREAK)


def _parted(text: str, names: tuple[str, ...], gap: str) -> str:
    pattern = _pattern(names)

    def parted(found: re.Match[str]) -> str:
        return found.group()[0] + gap + found.group()[1:]

    while pattern.search(text):  # what is left of a marker may be one, too
        text = pattern.sub(parted, text)
    return text


def _may_hold_structure(texts: Sequence[str]) -> bool:
    """Whether a tokenizer that normalises its input (width, case) could find a marker."""
    return any(not text.isascii() and re.search("[<＜﹤\\[［|｜]", text) for text in texts)


def _ids(tokenizer: Any, instruction: str, chat: Sequence[Mapping[str, str]]) -> list[int]:
    system = [{"role": "system", "content": instruction}] if instruction else []
    try:
        text = tokenizer.apply_chat_template([*system, *chat], add_generation_prompt=True, tokenize=False)
    except Exception as error:  # a template is a program, and may fail in any way
        raise DataError(f"the chat template refuses the conversation: {error}") from error
    if _BREAK not in text:
        return _encoded(tokenizer, text)
    return _without_breaks(tokenizer, text)


def _without_breaks(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text, those of the breaks left out; a space in their place where they cannot be told apart."""
    if tokenizer.is_fast:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        pieces = [text[start:end] for start, end in encoded["offset_mapping"]]
        if all(_BREAK not in piece or not piece.strip(_BREAK) for piece in pieces):
            ids = zip(encoded["input_ids"], pieces, strict=True)
            return [i for i, piece in ids if _BREAK not in piece]
    return _encoded(tokenizer, text.replace(_BREAK, " "))


def _structure(ids: Sequence[int], markers: Markers) -> Counter[int]:
    return Counter(i for i in ids if i in markers.ids)


def target_text(
    row: Row,
    schema: OutputSchema,
    *,
    language: Literal["en", "zh"],
    missing_trace: Literal["template", "drop", "none"],
) -> str | None:
    """What the assistant should have written for a row: its trace and its best reference, rendered.

    Args:
        row: With a reference.
        schema: Names the spans.
        language: "en" or "zh".
        missing_trace: "template" writes a trace by the offline rules; "none" leaves the spans out that the row lacks;
            "drop" gives None.

    Returns:
        The completion's text; None for a row without a reference, or without a trace that may be made.

    Raises:
        DataError: The trace lacks a span, or a text cannot be written in this form.
    """
    if not row.references:
        return None
    trace = row.trace or (template_trace(row, language) if missing_trace == "template" else None)
    reasoning = [name for name in schema.span_names if name != schema.answer]
    if reasoning and trace is None and missing_trace != "none":
        return None
    spans = (
        {name: trace.spans[name] for name in reasoning if name in trace.spans} if trace is not None else {}
    )
    try:
        return schema.render(
            {**spans, schema.answer: row.references[0].text}, partial=missing_trace == "none"
        )
    except ValueError as error:
        raise DataError(str(error)) from error

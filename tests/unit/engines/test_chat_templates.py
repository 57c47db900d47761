"""Chat templates fitted to a run: every way in which a model's own may not suit."""

import json
import struct
from datetime import date
from pathlib import Path

import pytest

from rl_empathy.config.sections import DataConfig, ModelConfig
from rl_empathy.engines.chat_sources import folder_chat, gguf_chat
from rl_empathy.engines.chat_templates import ChatText, fitted
from rl_empathy.errors import ModelError
from rl_empathy.schema import CHAIN_OF_EMPATHY, PLAIN, THINK_ANSWER
from tests.tiny_models import CHAT_TEMPLATE, make_tiny_tokenizer

TODAY = date(2026, 11, 28)
SYSTEM, USER, REPLY = (
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "I am sad."},
    {"role": "assistant", "content": "I hear you."},
)
ALTERNATING = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<start_of_turn>{{ m['role'] }}\n{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
DROPPING = (
    "{% for m in messages if m['role'] != 'system' %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FORCED = CHAT_TEMPLATE.replace(
    "<|im_start|>assistant\n{% endif", "{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif"
)
OPTIONAL_THINKING = CHAT_TEMPLATE.replace(
    "assistant\n{% endif",
    "assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif",
)
DATED = (
    "{% set today = strftime_now('%d %b %Y') if strftime_now is defined else '' %}Today: {{ today }}\n"
    + CHAT_TEMPLATE
)


def make_chat(template: str | None = CHAT_TEMPLATE, **changes: object) -> ChatText:
    values = {
        "template": template,
        "special_tokens": {"bos_token": "<s>", "eos_token": "</s>"},
        "tokens": frozenset(
            ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>"]
        ),
        "eos_tokens": ("</s>",),
    }
    return ChatText(**values | changes)  # type: ignore[arg-type]


def fit(chat: ChatText, *, schema=CHAIN_OF_EMPATHY, data=None, today=TODAY, **model):
    config = ModelConfig(path="m", **model)
    return fitted(chat, config, DataConfig(**data or {}), schema.delimiters, today)


def written(chat: ChatText, template: str, *messages: dict[str, str], prompt: bool = False) -> str:
    return chat.with_template(template).render(messages, add_generation_prompt=prompt)


def test_a_template_that_suits_is_left_alone() -> None:
    found = fit(make_chat())
    assert (found.template, found.notes) == (CHAT_TEMPLATE, ())


def test_a_model_without_template_is_refused_with_the_way_out() -> None:
    with pytest.raises(
        ModelError, match=r"the model has no chat template; give model\.chat_template: roles, chatml"
    ):
        fit(make_chat(None))


def test_a_template_is_given_by_name_or_path(tmp_path: Path) -> None:
    chat = make_chat(None)
    roles = fit(chat, chat_template="roles").template
    assert written(chat, roles, SYSTEM, USER, REPLY, USER, prompt=True) == (
        "System: Be kind.\n\nUser: I am sad.\n\nAssistant: I hear you.</s>\n\nUser: I am sad.\n\nAssistant:"
    )
    (tmp_path / "own.jinja").write_text(CHAT_TEMPLATE)
    assert fit(chat, chat_template=str(tmp_path / "own.jinja")).template == CHAT_TEMPLATE
    with pytest.raises(ModelError, match="'nope' is neither a shipped template"):
        fit(chat, chat_template="nope")


def test_a_shipped_template_keeps_the_rule_of_the_bos_token() -> None:
    chat = make_chat(None, adds_bos=True)
    assert written(chat, fit(chat, chat_template="roles").template, USER).startswith("<s>User: ")


def test_chatml_wants_its_tokens() -> None:
    with pytest.raises(
        ModelError, match=r"no tokens <\|im_start\|> and <\|im_end\|>; set model\.chat_template: roles"
    ):
        fit(make_chat(None, tokens=frozenset(["</s>"])), chat_template="chatml")


@pytest.mark.parametrize("template", [ALTERNATING, DROPPING], ids=["refuses", "drops"])
def test_a_template_without_system_message_is_refused_with_three_ways_out(template: str) -> None:
    chat = make_chat(template)
    with pytest.raises(
        ModelError, match=r"system_prompt_role: user .*data\.system_prompt: \"\" .*model\.chat_template"
    ):
        fit(chat)
    assert fit(chat, data={"system_prompt": ""}).notes
    moved = fit(chat, data={"system_prompt_role": "user"}).template
    assert written(chat, moved, SYSTEM, USER) == written(
        chat, template, {"role": "user", "content": "Be kind.\n\nI am sad."}
    )


def test_two_messages_of_one_side_in_a_row_are_joined_where_the_template_refuses_them() -> None:
    chat = make_chat(ALTERNATING)
    found = fit(chat, data={"system_prompt": ""})
    assert any("joined" in note for note in found.notes)
    assert written(chat, found.template, USER, USER, REPLY, USER) == written(
        chat, ALTERNATING, {"role": "user", "content": "I am sad.\n\nI am sad."}, REPLY, USER
    )


@pytest.mark.parametrize("schema", [THINK_ANSWER, CHAIN_OF_EMPATHY, PLAIN], ids=lambda schema: schema.name)
def test_a_forced_thought_is_left_out_of_the_prompt(schema) -> None:
    chat = make_chat(FORCED)
    found = fit(chat, schema=schema)
    assert written(chat, found.template, USER, prompt=True) == written(chat, CHAT_TEMPLATE, USER, prompt=True)
    assert written(chat, found.template, USER, REPLY, USER) == written(chat, FORCED, USER, REPLY, USER)
    assert "ends the prompt with '<think>\\n'" in found.notes[0]


def test_arguments_of_the_template_are_written_into_it() -> None:
    chat = make_chat(OPTIONAL_THINKING)
    assert written(chat, fit(chat).template, USER, prompt=True).endswith("assistant\n")
    found = fit(chat, chat_template_kwargs={"enable_thinking": False}, schema=PLAIN)
    assert written(chat, found.template, USER, prompt=True).endswith("assistant\n<think>\n\n</think>\n\n")
    with pytest.raises(ModelError, match=r"take the argument out of model\.chat_template_kwargs"):
        fit(chat, chat_template_kwargs={"enable_thinking": False}, schema=THINK_ANSWER)


def test_arguments_add_no_white_space() -> None:
    chat = make_chat("\n" + CHAT_TEMPLATE)
    found = fit(chat, chat_template_kwargs={"names": ["a", None, True], "text": 'it\'s "so"\n我'})
    assert written(chat, found.template, USER) == written(chat, "\n" + CHAT_TEMPLATE, USER)


def test_the_date_of_a_template_stays_that_of_the_run() -> None:
    chat = make_chat(DATED)
    found = fit(chat, today=date(2026, 2, 3))
    assert written(chat, found.template, USER).startswith("Today: 03 Feb 2026\n")
    assert "2026-02-03" in found.notes[0]
    spaced = fit(
        make_chat("{# strftime_now #}{{ strftime_now ( '%d %b' ) }}" + CHAT_TEMPLATE), today=date(2026, 2, 3)
    )
    assert written(chat, spaced.template, USER).startswith("03 Feb<|im_start|>")


@pytest.mark.parametrize(
    "clock", ["{% set form = '%H' %}{{ strftime_now(form) }}", "{% set now = strftime_now %}{{ now('%H') }}"]
)
def test_a_clock_that_cannot_be_stopped_is_refused(clock: str) -> None:
    with pytest.raises(ModelError, match="cannot be fixed for the run"):
        fit(make_chat(clock + CHAT_TEMPLATE))


@pytest.mark.parametrize(
    "fault",
    ["{{ messages[0]['content'].index('nowhere') }}", "{{ 1 // 0 }}", "{% for x in", "{{ messages + 1 }}"],
)
def test_a_template_that_fails_in_any_way_is_refused(fault: str) -> None:
    with pytest.raises(ModelError, match="the chat template of the model fails on one message: "):
        fit(make_chat(fault + CHAT_TEMPLATE))


@pytest.mark.parametrize(
    ("template", "eos", "end"),
    [
        (CHAT_TEMPLATE, ("</s>",), "<|im_end|>"),
        (ALTERNATING, ("</s>", "<end_of_turn>"), "<end_of_turn>"),
        (CHAT_TEMPLATE.replace("<|im_end|>", ""), ("</s>",), "</s>"),
        (
            "{% for m in messages %}{{ m['role'] + ' ' + m['content'] + ' ' + eos_token }}{% endfor %}",
            ("</s>",),
            "</s>",
        ),
        (CHAT_TEMPLATE, (), "<|im_end|>"),
    ],
    ids=["other than eos", "one of several", "none written", "eos after a space", "no eos"],
)
def test_the_turn_end_is_what_the_template_writes_after_a_reply(
    template: str, eos: tuple[str, ...], end: str
) -> None:
    found = fit(make_chat(template, eos_tokens=eos), data={"system_prompt": ""})
    assert found.turn_end == found.eos_tokens[0] == end
    assert set(eos) <= set(found.eos_tokens)


def test_a_model_without_any_end_token_is_refused() -> None:
    chat = make_chat("{% for m in messages %}{{ m['role'] + m['content'] }}{% endfor %}", eos_tokens=())
    with pytest.raises(ModelError, match="has no end token, and its chat template writes none"):
        fit(chat)


def test_a_folder_says_its_template_tokens_and_ends(tmp_path: Path) -> None:
    tokenizer = make_tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    ids = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|pad|>"])
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    chat = folder_chat(tmp_path)
    assert chat.template == CHAT_TEMPLATE
    assert chat.eos_tokens == ("<|im_end|>", "<|pad|>")
    assert {"<|im_start|>", "<answer>"} <= chat.tokens
    assert not chat.adds_bos


def test_a_folder_without_tokenizer_json_says_its_tokens(tmp_path: Path) -> None:
    tokens = {"7": {"content": "<|im_end|>", "special": True}, "8": {"content": "word", "special": False}}
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "</s>", "chat_template": CHAT_TEMPLATE, "added_tokens_decoder": tokens})
    )
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|im_start|>": 6, "word": 8}))
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": [7]}))
    chat = folder_chat(tmp_path)
    assert chat.tokens == {"<|im_start|>", "<|im_end|>", "</s>"}
    assert chat.eos_tokens == ("</s>", "<|im_end|>")
    assert fit(chat).turn_end == "<|im_end|>"


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"has no tokenizer \(tokenizer\.json.*save_pretrained"):
        folder_chat(tmp_path)


def make_gguf(file: Path, template: str | None, *, bos: str = "<s>", eos: str = "</s>") -> Path:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    tokens, kinds = [bos, eos, "<end_of_turn>", "Hi"], [3, 3, 3, 1]
    entries = [
        text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 4) + b"".join(map(text, tokens)),
        text("tokenizer.ggml.token_type") + struct.pack("<IIQ4i", 9, 5, 4, *kinds),
        text("tokenizer.ggml.bos_token_id") + struct.pack("<II", 4, 0),
        text("tokenizer.ggml.eos_token_id") + struct.pack("<II", 4, 1),
        text("tokenizer.ggml.add_bos_token") + struct.pack("<I?", 7, True),
    ]
    if template:
        entries.append(text("tokenizer.chat_template") + struct.pack("<I", 8) + text(template))
    file.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, len(entries)) + b"".join(entries))
    return file


def test_a_gguf_file_says_its_template_tokens_and_rules(tmp_path: Path) -> None:
    chat = gguf_chat(make_gguf(tmp_path / "m.gguf", ALTERNATING))
    assert (chat.template, chat.eos_tokens, chat.adds_bos) == (ALTERNATING, ("</s>",), True)
    assert fit(chat, data={"system_prompt": ""}).turn_end == "<end_of_turn>"
    bare = gguf_chat(make_gguf(tmp_path / "bare.gguf", None))
    with pytest.raises(ModelError, match=r"bare\.gguf has no chat template"):
        fit(bare)
    assert written(bare, fit(bare, chat_template="roles").template, USER).startswith("<s>User: ")

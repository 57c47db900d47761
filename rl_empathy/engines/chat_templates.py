"""The chat template of a run: the model's own or the one that the run file gives, fitted to what the run needs.

    ChatText (template, special tokens) ──fitted──> FittedChat: the template that is written to the run's base model

Everything that a run file asks for is written into the template itself, so that fine-tuning, sampling, evaluation and
the released model agree, on every day: arguments, the date, and where the instruction stands.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from rl_empathy.config.sections import DataConfig, ModelConfig
from rl_empathy.errors import ModelError

_ROLES = (
    "{% for message in messages %}"
    "{{ message['role'] | capitalize + ': ' + message['content'] | trim }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token | default('', true) }}{% endif %}{{ '\\n\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TEMPLATES: Mapping[str, str] = {"roles": _ROLES, "chatml": _CHATML}
"""Templates that come with the package: `roles` writes "User: …" in plain words and suits every base model; `chatml`
is for models that know <|im_start|> and <|im_end|>."""

WAY_OUT = f"give model.chat_template: {', '.join(TEMPLATES)}, or the path of a template"
_MERGED = (
    "{% set merged = namespace(messages=[]) %}{% for message in messages %}"
    "{% set role = __ROLE__ %}"
    "{% if merged.messages and merged.messages[-1]['role'] == role %}"
    "{% set merged.messages = merged.messages[:-1] + [{'role': role, 'content': "
    "merged.messages[-1]['content'] + '\\n\\n' + message['content']}] %}"
    "{% else %}{% set merged.messages = merged.messages + [{'role': role, 'content': message['content']}] %}"
    "{% endif %}{% endfor %}{% set messages = merged.messages +%}"
)
_OWN_ROLE = "message['role']"
_SYSTEM_AS_USER = "'user' if message['role'] == 'system' else message['role']"
_DATE = re.compile(r"""strftime_now\s*\(\s*(?:format\s*=\s*)?(['"])(.*?)\1\s*\)""")
_ASKED_FOR_DATE = re.compile(r"(?s)\{#.*?#\}|strftime_now\s+is\s+(?:not\s+)?(?:defined|none)")
_THINKING = r"<(think|thinking|thought|reasoning)>"
_SYSTEM, _USER, _ASSISTANT = "Qinstructionq", "Qquestionq", "Qreplyq"
"""Contents of conversations on which a template is tried."""

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatText:
    """What is known of a model's text before anything is loaded."""

    template: str | None
    special_tokens: Mapping[str, str]
    """Those of "bos_token", "eos_token", … that the tokenizer has."""
    tokens: frozenset[str]
    """Tokens that stand for structure: roles, ends, markers."""
    eos_tokens: tuple[str, ...] = ()
    """Tokens at which the model's own generation settings stop, the tokenizer's first."""
    adds_bos: bool = False
    """Whether the tokenizer begins every text with the bos token."""
    place: str = "the model"
    """Folder or file, for messages."""

    def render(self, messages: Messages, *, add_generation_prompt: bool = False) -> str:
        """Write a conversation; raises any error where the template refuses it: a template is a program."""
        from transformers.utils.chat_template_utils import render_jinja_template

        assert self.template is not None
        tokens: dict[str, Any] = dict(self.special_tokens)
        rendered: Any = render_jinja_template(
            conversations=[[dict(message) for message in messages]],
            chat_template=self.template,
            add_generation_prompt=add_generation_prompt,
            **tokens,
        )
        return str(rendered[0][0])

    def accepts(self, messages: Messages) -> bool:
        """Whether the template writes every message of a conversation."""
        try:
            text = self.render(messages)
        except Exception:  # see `render`
            return False
        return all(message["content"] in text for message in messages)

    def with_template(self, template: str) -> "ChatText":
        return replace(self, template=template)


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedChat:
    """The template and the ends that a run uses, and what the user should know of them."""

    template: str
    turn_end: str
    """The token that ends a reply: the last one of fine-tuning's targets, at which generation stops."""
    eos_tokens: tuple[str, ...]
    """All tokens at which generation stops."""
    notes: tuple[str, ...] = ()


def fitted(
    chat: ChatText, model: ModelConfig, data: DataConfig, delimiters: Sequence[str], today: date
) -> FittedChat:
    """Fit a model's template to a run.

    Args:
        chat: The model's own.
        model: `chat_template` and `chat_template_kwargs` count.
        data: `system_prompt` and `system_prompt_role` count.
        delimiters: Delimiters of the schema, in the order of rendering.
        today: The date of the run, for a template that writes it.

    Raises:
        ModelError: The template cannot be used; the text says how to go on.
    """
    notes: list[str] = []
    chat = chat.with_template(_dated(_with_arguments(_chosen(chat, model), model), today, notes))
    _require_tokens(chat, model)
    chat = _taking_every_role(chat, data, notes)
    chat = _without_forced_thinking(chat, delimiters, notes)
    end = _turn_end(chat)
    assert chat.template is not None
    stops = tuple(dict.fromkeys((end, *chat.eos_tokens)))
    return FittedChat(template=chat.template, turn_end=end, eos_tokens=stops, notes=tuple(notes))


def _chosen(chat: ChatText, model: ModelConfig) -> str:
    wanted = model.chat_template
    if wanted is None:
        if not chat.template:
            raise ModelError(f"{chat.place} has no chat template; {WAY_OUT}")
        return chat.template
    if wanted in TEMPLATES:
        return ("{{ bos_token }}" if chat.adds_bos else "") + TEMPLATES[wanted]
    return template_file(wanted)


def template_file(wanted: str) -> str:
    """The text of the file that model.chat_template names.

    Raises:
        ModelError: There is no such file.
    """
    try:
        return Path(wanted).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"model.chat_template {wanted!r} is neither a shipped template ({', '.join(TEMPLATES)}) nor a text file: "
            f"{error}"
        ) from error


def _with_arguments(template: str, model: ModelConfig) -> str:
    # Jinja reads what repr writes of text, numbers, lists and mappings.
    written = (f"{{% set {name} = {value!r} +%}}" for name, value in model.chat_template_kwargs.items())
    return "".join(written) + template


def _dated(template: str, today: date, notes: list[str]) -> str:
    """The template with its date written out: it writes the same text on every day of the run."""
    frozen = _DATE.sub(lambda call: json.dumps(today.strftime(call.group(2))), template)
    if "strftime_now" in _ASKED_FOR_DATE.sub("", frozen):
        raise ModelError(
            "the chat template writes the current time in a way that cannot be fixed for the run; "
            "give model.chat_template: the path of a template without strftime_now"
        )
    if frozen != template:
        notes.append(f"the chat template writes the date; it stays {today.isoformat()} for the whole run")
    return frozen


def _require_tokens(chat: ChatText, model: ModelConfig) -> None:
    if model.chat_template == "chatml" and not {"<|im_start|>", "<|im_end|>"} <= chat.tokens:
        raise ModelError(
            f"model.chat_template chatml: {chat.place} has no tokens <|im_start|> and <|im_end|>; "
            "set model.chat_template: roles"
        )
    probe = [{"role": "user", "content": _USER}]
    try:
        text = chat.render(probe, add_generation_prompt=True)
    except Exception as error:  # see `ChatText.render`
        raise ModelError(
            f"the chat template of {chat.place} fails on one message: {error}; {WAY_OUT}"
        ) from error
    if _USER not in text:
        raise ModelError(f"the chat template of {chat.place} leaves out what the user writes; {WAY_OUT}")


def _taking_every_role(chat: ChatText, data: DataConfig, notes: list[str]) -> ChatText:
    """The template, made to take the conversations of the run: an instruction first, two user messages in a row."""
    system, user, reply = (
        {"role": role, "content": text}
        for role, text in (("system", _SYSTEM), ("user", _USER), ("assistant", _ASSISTANT))
    )
    if data.system_prompt_role == "user":
        return _prefixed(chat, _SYSTEM_AS_USER)
    if not chat.accepts([system, user]):
        if data.system_prompt == "":
            notes.append(
                "the chat template refuses or drops system messages; a row that brings one is affected"
            )
            return _joined(chat, [user, reply], notes)
        raise ModelError(
            f"the chat template of {chat.place} refuses or drops a system message, and the run's instruction is one; "
            'set data.system_prompt_role: user (it then begins the first user message), data.system_prompt: "" '
            "(no instruction), or give another model.chat_template"
        )
    return _joined(chat, [user, reply], notes)


def _joined(chat: ChatText, talk: list[dict[str, str]], notes: list[str]) -> ChatText:
    """The template; where it refuses two messages of one side in a row, made to join them."""
    user = talk[0]
    if chat.accepts([*talk, user]) and not chat.accepts([user, {"role": "user", "content": _USER + "s"}]):
        notes.append("the chat template refuses two messages of one side in a row; they are joined into one")
        return _prefixed(chat, _OWN_ROLE)
    return chat


def _prefixed(chat: ChatText, role: str) -> ChatText:
    assert chat.template is not None
    return chat.with_template(_MERGED.replace("__ROLE__", role) + chat.template)


def _without_forced_thinking(chat: ChatText, delimiters: Sequence[str], notes: list[str]) -> ChatText:
    """The template without an opened thought at the prompt's end: a completion opens its spans itself."""
    prompt = chat.render([{"role": "user", "content": _USER}], add_generation_prompt=True)
    head, question, opening = prompt.rpartition(_USER)
    first = delimiters[0] if delimiters else ""
    closed = re.search(_THINKING + r".*</\1>\s*$", opening, re.DOTALL)
    if closed and first == f"<{closed.group(1)}>":
        raise ModelError(
            f"the chat template ends the prompt with {closed.group()!r}, and the schema begins with {first!r}; "
            "take the argument out of model.chat_template_kwargs, or choose another schema"
        )
    forced = re.search(_THINKING + r"\s*$", opening)
    if forced is None and first and opening.rstrip().endswith(first):
        forced = re.search(re.escape(first) + r"\s*$", opening)
    if forced is None:
        return chat
    wanted = head + question + opening[: forced.start()]
    notes.append(
        f"the chat template ends the prompt with {forced.group()!r}, which is left out: "
        "a completion begins with the schema's own delimiters"
    )
    return _cut_at(chat, forced.group(), wanted)


def _cut_at(chat: ChatText, forced: str, wanted: str) -> ChatText:
    """Leave the forced text out of the template's source, at the place where the prompt then is as wanted."""
    assert chat.template is not None
    user = {"role": "user", "content": _USER}
    talk = [user, {"role": "assistant", "content": _ASSISTANT}, user]
    source = chat.template
    for written in (forced.replace("\n", "\\n"), forced, forced.strip()):
        for found in reversed(list(re.finditer(re.escape(written), source))):
            candidate = chat.with_template(source[: found.start()] + source[found.end() :])
            try:
                if candidate.render([user], add_generation_prompt=True).rstrip() != wanted.rstrip():
                    continue
                if candidate.render(talk) == chat.render(talk):
                    return candidate
            except Exception:  # a cut that breaks the template
                continue
    raise ModelError(
        f"the chat template ends the prompt with {forced!r}, which cannot be left out; give model.chat_template: the "
        "path of a template without it"
    )


def _turn_end(chat: ChatText) -> str:
    """The token that the template writes after a reply; the tokenizer's end token where it writes none."""
    user = {"role": "user", "content": _USER}
    talk = [user, {"role": "assistant", "content": _ASSISTANT}]
    tail = chat.render(talk).rpartition(_ASSISTANT)[2].lstrip() if chat.accepts(talk) else ""
    written = [token for token in chat.tokens if token and tail.startswith(token)]
    if written:
        return max(written, key=len)
    if chat.eos_tokens:
        return chat.eos_tokens[0]
    raise ModelError(
        f"{chat.place} has no end token, and its chat template writes none after a reply; give model.chat_template: "
        "the path of a template that ends a reply with one of the model's special tokens"
    )

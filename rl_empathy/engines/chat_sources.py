"""What is known of a model's text before it is loaded: from its folder, or from the header of its GGUF file."""

import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from rl_empathy.config.gguf import gguf_header
from rl_empathy.config.model_size import gguf_file
from rl_empathy.config.run_file import RunFile
from rl_empathy.engines.chat_templates import ChatText, fitted
from rl_empathy.engines.model_folders import require_tokenizer_files
from rl_empathy.errors import ModelError
from rl_empathy.schema import is_marker

SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token")
_CONTROL, _USER_DEFINED = 3, 4
_GGUF = "tokenizer.ggml."
_GGUF_KEYS = (
    "tokenizer.chat_template",
    *(f"{_GGUF}{name}" for name in ("tokens", "token_type", "add_bos_token")),
    *(
        f"{_GGUF}{name}_id"
        for name in ("bos_token", "eos_token", "eot_token", "unknown_token", "padding_token")
    ),
)


def check_chat(run_file: RunFile) -> tuple[str, ...]:
    """Look, before anything is loaded, whether the run can use its model's chat template; gives remarks.

    A model that only a hub has is looked at when the run starts.

    Raises:
        ModelError: The run cannot use it; the text says how to go on.
    """
    model, path = run_file.model, Path(run_file.model.path or "").expanduser()
    file = gguf_file(model.path) if model.path else None
    if not file and (model.path is None or not path.is_dir()):
        return ()
    chat = gguf_chat(file) if file else folder_chat(path)
    delimiters = run_file.schema_declaration.delimiters
    return fitted(chat, model, run_file.data, delimiters, date.today()).notes


def folder_chat(folder: Path) -> ChatText:
    """The chat text of a transformers folder.

    Raises:
        ModelError: It has no tokenizer, or a file of it is damaged.
    """
    require_tokenizer_files(folder)
    settings = _json(folder / "tokenizer_config.json")
    special = {**_json(folder / "special_tokens_map.json"), **settings}
    named = {name: text for name in SPECIAL_NAMES if (text := _text(special.get(name)))}
    tokenizer = _json(folder / "tokenizer.json")
    added = _added_tokens(folder, tokenizer, settings)
    ids = [_json(folder / name).get("eos_token_id") for name in ("generation_config.json", "config.json")]
    stops = [added[i] for found in ids for i in (found if isinstance(found, list) else [found]) if i in added]
    first = [named["eos_token"]] if "eos_token" in named else []
    return ChatText(
        template=_folder_template(folder, settings),
        special_tokens=named,
        tokens=frozenset([*added.values(), *named.values()]),
        eos_tokens=tuple(dict.fromkeys([*first, *stops])),
        adds_bos=bool(settings.get("add_bos_token")) or _begins_with_bos(tokenizer, named.get("bos_token")),
        place=str(folder),
    )


def gguf_chat(file: Path) -> ChatText:
    """The chat text of a GGUF file; its header is read, not its tensors."""
    values = gguf_header(file, _GGUF_KEYS).values
    tokens = values.get(f"{_GGUF}tokens") or []
    kinds = values.get(f"{_GGUF}token_type") or []

    def named(key: str) -> str:
        number = values.get(f"{_GGUF}{key}_id")
        return str(tokens[number]) if number is not None and number < len(tokens) else ""

    keys = {"bos_token": "bos_token", "eos_token": "eos_token", "unk_token": "unknown_token"}
    special = {name: text for name, key in keys.items() if (text := named(key))}
    ends = [text for text in (named("eos_token"), named("eot_token")) if text]
    control = [
        t
        for t, k in zip(tokens, kinds, strict=False)
        if k == _CONTROL or (k == _USER_DEFINED and is_marker(t))
    ]
    return ChatText(
        template=values.get("tokenizer.chat_template"),
        special_tokens=special,
        tokens=frozenset([*control, *special.values(), *ends]),
        eos_tokens=tuple(dict.fromkeys(ends)),
        adds_bos=bool(values.get(f"{_GGUF}add_bos_token")) and "bos_token" in special,
        place=str(file),
    )


def _added_tokens(folder: Path, tokenizer: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[int, str]:
    """The tokens that stand for structure, by id; a folder without tokenizer.json names them in other files."""
    described = [(int(token["id"]), token) for token in tokenizer.get("added_tokens") or ()]
    described += [(int(i), token) for i, token in (settings.get("added_tokens_decoder") or {}).items()]
    found = {
        i: str(token["content"])
        for i, token in described
        if token.get("special") or is_marker(str(token["content"]))
    }
    bare = _json(folder / "added_tokens.json").items()
    return {int(i): token for token, i in bare if is_marker(token)} | found


def _folder_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = settings.get("chat_template") or _json(folder / "chat_template.json").get("chat_template")
    if isinstance(template, list):  # several by name
        return {entry["name"]: entry["template"] for entry in template}.get("default")
    return template


def _begins_with_bos(tokenizer: Mapping[str, Any], bos: str | None) -> bool:
    processor = tokenizer.get("post_processor") or {}
    steps = processor.get("processors") or [processor]
    firsts = [step["single"][0] for step in steps if step.get("single")]
    return any(bos is not None and first.get("SpecialToken", {}).get("id") == bos for first in firsts)


def _text(token: Any) -> str:
    return str(token["content"]) if isinstance(token, dict) else str(token or "")


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    return value if isinstance(value, dict) else {}

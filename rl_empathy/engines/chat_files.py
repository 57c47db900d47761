"""The folder of a run's starting model: its weights linked, its tokenizer with the fitted chat template."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rl_empathy.engines.chat_templates import ChatText, FittedChat
from rl_empathy.errors import ModelError

CHAT_FILE = "chat.json"
"""What the folder of a starting model says of its chat template."""


def chat_notes(folder: Path) -> list[str]:
    """What was changed of a starting model's chat template, for the user."""
    file = folder / CHAT_FILE
    return list(json.loads(file.read_text())["notes"]) if file.is_file() else []


def require_same_chat(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Raise ModelError when the folder was made for other settings than the run file's of today."""
    file = folder / CHAT_FILE
    if file.is_file() and (made := json.loads(file.read_text())["wanted"]) != wanted:
        raise ModelError(
            f"{folder} was made for other settings of the chat template: {made}, now {wanted}; "
            "start the run with --fresh"
        )


def is_fitting(chat: ChatText, fit: FittedChat) -> bool:
    """Whether a model needs no change: its template is right, and its tokenizer's end token ends a reply."""
    return chat.template == fit.template and chat.special_tokens.get("eos_token") == fit.turn_end


def link_weights(source: Path, folder: Path) -> None:
    """Link what makes a model, but not its tokenizer and its generation settings, which are written anew."""
    for pattern in ("config.json", "*.safetensors", "*.safetensors.index.json"):
        for file in source.glob(pattern):
            (folder / file.name).symlink_to(file.resolve())


def write_chat(fit: FittedChat, wanted: Mapping[str, Any], folder: Path, *, tokenizer_from: Path) -> None:
    """Write the tokenizer with the fitted template, and the ends where vLLM and transformers look for them."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_from)
    tokenizer.chat_template = fit.template
    tokenizer.eos_token = fit.turn_end
    tokenizer.save_pretrained(folder)
    name = "generation_config.json"
    written = next((f for f in (folder / name, tokenizer_from / name) if f.is_file()), None)
    settings = json.loads(written.read_text()) if written else {}
    settings["eos_token_id"] = [tokenizer.convert_tokens_to_ids(token) for token in fit.eos_tokens]
    (folder / name).write_text(json.dumps(settings, indent=2) + "\n")
    (folder / CHAT_FILE).write_text(json.dumps({"wanted": wanted, "notes": fit.notes}))

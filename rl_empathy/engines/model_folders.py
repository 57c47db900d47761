"""What can be said of a model folder before an engine is started: whether one can run it, and which engine fits it."""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from rl_empathy.errors import ModelError

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.*",
    "*.tiktoken",
    "tekken.json",
    "*.spm",
    "*.bpe.model",
)
_SAYS_NOTHING = ("transformers_version", "dtype", "torch_dtype", "_name_or_path", "use_cache")
"""Keys of a model's config.json that differ between exports of one architecture."""


def require_runnable(folder: Path, *, max_tokens: int) -> None:
    """Check that a folder holds a language model that an engine can run.

    Args:
        folder: The model folder.
        max_tokens: Longest prompt plus completion that it has to take.

    Raises:
        ModelError: It cannot be run; the text says why and what to do.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    try:
        config = AutoConfig.from_pretrained(folder).get_text_config()
        architectures = AutoConfig.from_pretrained(folder).architectures or []
    except (ValueError, OSError, KeyError) as error:
        raise ModelError(f"{folder}: its config.json cannot be read: {error}") from error
    if not list(folder.glob("*.safetensors")):
        raise ModelError(f"{folder} has no weights (*.safetensors); export the model with save_pretrained")
    known: set[str] = set()
    for entry in [
        *MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(),
        *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values(),
    ]:
        known |= {entry} if isinstance(entry, str) else set(entry)
    if architectures and not known & set(architectures):
        raise ModelError(
            f"{folder} is a {architectures[0]}, which writes no text; give a causal language model"
        )
    _require_vocabulary(folder, config.vocab_size)
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and longest < max_tokens:
        raise ModelError(
            f"{folder} takes {longest} tokens at most, and prompt and completion may have {max_tokens} together; lower "
            f"data.max_prompt_tokens or evaluate.sampling.max_completion_tokens by {max_tokens - longest}"
        )


def _require_vocabulary(folder: Path, rows: int) -> None:
    highest = max(load_tokenizer(folder).get_vocab().values())
    if highest >= rows:
        raise ModelError(
            f"{folder}: its tokenizer has the id {highest}, and its embedding only {rows} rows; "
            "the tokenizer is another model's"
        )


def require_tokenizer_files(folder: Path) -> None:
    """Refuse a folder without a tokenizer: transformers makes an empty one for some architectures.

    Raises:
        ModelError: It has none of the usual files.
    """
    if not any(any(folder.glob(pattern)) for pattern in _TOKENIZER_FILES):
        raise ModelError(
            f"{folder} has no tokenizer ({', '.join(_TOKENIZER_FILES[:3])}, …); save that of the model that it comes "
            "from beside it, with tokenizer.save_pretrained"
        )


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder.

    Raises:
        ModelError: The folder has none.
    """
    from transformers import AutoTokenizer

    require_tokenizer_files(folder)
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise ModelError(f"{folder} has no tokenizer that transformers can load: {error}") from error


@functools.lru_cache(maxsize=64)
def engine_fingerprint(folder: Path) -> str:
    """Equal for two folders when an engine that was started with one can take the weights of the other.

    That holds when shapes, token ids and stop tokens are the same: otherwise the engine would load nothing, decode by
    the wrong vocabulary, or stop at another token.
    """
    shape = _json(folder / "config.json")
    tokenizer = load_tokenizer(folder)
    identity = {
        "shape": {key: value for key, value in shape.items() if key not in _SAYS_NOTHING},
        "stop": _json(folder / "generation_config.json").get("eos_token_id"),
        "vocabulary": tokenizer.get_vocab(),
        "tokenizer": tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else type(tokenizer).__name__,
        "special": tokenizer.special_tokens_map,
    }
    text = json.dumps(identity, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}  # type: ignore[no-any-return]

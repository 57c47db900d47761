"""How large a model is, read off its shape or the header of its file; nothing is loaded."""

import json
import math
import struct
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from rl_empathy.config.gguf import gguf_header
from rl_empathy.config.sections import FromScratchConfig, ModelConfig
from rl_empathy.errors import ConfigError

PACKAGE_SCHEME = "package://"
_GGUF_KIND = "general.architecture"
_GGUF_KEYS = (
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
)


class ModelShape(NamedTuple):
    """The widths and counts that decide what a Llama takes, and about what others like it take."""

    hidden: int
    layers: int
    intermediate: int
    vocabulary: int
    query: int
    """Width of all query heads together."""
    key_value: int
    """Width of all key heads together, and of all value heads."""
    tied: bool

    @property
    def parameters(self) -> int:
        attention = 2 * self.hidden * self.query + 2 * self.hidden * self.key_value
        norms = 2 * self.hidden
        layer = attention + 3 * self.hidden * self.intermediate + norms
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * layer + self.hidden


class ModelSize(NamedTuple):
    """How many parameters a model has, and its shape where that is known."""

    parameters: int
    shape: ModelShape | None


def intermediate_size(hidden_size: int) -> int:
    """Feed-forward width of a model made from scratch: 8/3 of hidden_size, up to a multiple of 32."""
    return 32 * math.ceil(8 * hidden_size / 3 / 32)


def from_scratch_parameters(config: FromScratchConfig) -> int:
    """Parameters of the Llama of `model.from_scratch`."""
    return _from_scratch_shape(config).parameters


def model_size(model: ModelConfig) -> ModelSize | None:
    """Size of the run's starting model; None when only the hub knows: its config is not in the cache here.

    Raises:
        ConfigError: The package of a package:// path or its file is missing, or the files are damaged.
    """
    if model.from_scratch is not None:
        shape = _from_scratch_shape(model.from_scratch)
        return ModelSize(shape.parameters, shape)
    path = model.path or ""
    if file := gguf_file(path):
        return _gguf_size(file)
    local = Path(path).expanduser()
    return folder_size(local if local.exists() else _cached_folder(path, model.revision) or local)


def gguf_file(path: str) -> Path | None:
    """The GGUF file that `model.path` means, if it means one: by its own path, or inside a package.

    Raises:
        ConfigError: The package is missing, or its file is.
    """
    if path.startswith(PACKAGE_SCHEME):
        return package_file(path)
    file = Path(path).expanduser()
    return file if file.is_file() else None


def _cached_folder(hub_id: str, revision: str | None) -> Path | None:
    """Where the hub's cache has the config of a model, if it has it."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(hub_id, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def package_file(path: str) -> Path:
    """The file that package://<package>/<file> names; the package is found, not imported."""
    package, _, name = path.removeprefix(PACKAGE_SCHEME).partition("/")
    if not package.isidentifier() or not name or ".." in Path(name).parts:
        raise ConfigError(f"model.path {path!r} must look like package://<package>/<file.gguf>")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"model.path {path!r} needs the package {package}, which is not installed; "
            "install the extra: pip install 'rl-empathy[models]'"
        )
    folder = Path(next(iter(spec.submodule_search_locations)))
    if not (folder / name).is_file():
        known = ", ".join(sorted(file.name for file in folder.glob("*.gguf"))) or "none"
        raise ConfigError(f"model.path {path!r}: {package} has no file {name}; its GGUF files: {known}")
    return folder / name


def folder_size(path: Path) -> ModelSize | None:
    """Size of a local GGUF file or transformers folder; None when neither is there, or its kind is not known."""
    if path.is_file():
        return _gguf_size(path)
    if path.is_dir():
        _require_model(path)
    shape = _config_shape(path / "config.json") if (path / "config.json").is_file() else None
    if weights := sorted(path.glob("*.safetensors")):
        return ModelSize(sum(_safetensors_parameters(file) for file in weights), shape)
    return ModelSize(shape.parameters, shape) if shape else None


def _require_model(folder: Path) -> None:
    """Refuse a folder that holds no model, or only a part of one."""
    if (folder / "config.json").is_file():
        return
    if (folder / "adapter_config.json").is_file():
        base = _json(folder / "adapter_config.json", (folder / "adapter_config.json").read_bytes())
        raise ConfigError(
            f"model.path: {folder} is an adapter of {base.get('base_model_name_or_path')}, no model; merge it first "
            "(merge_and_unload of peft, then save_pretrained), and name that folder"
        )
    names = sorted(entry.name for entry in folder.iterdir())
    if any(name.endswith(".safetensors") for name in names):
        return
    held = f"it holds {', '.join(names[:5])}{', …' if len(names) > 5 else ''}" if names else "it is empty"
    raise ConfigError(f"model.path: {folder} is no model folder: there is no config.json; {held}")


def _from_scratch_shape(config: FromScratchConfig) -> ModelShape:
    """Tied embeddings, a key-value head for every head."""
    return ModelShape(
        hidden=config.hidden_size,
        layers=config.num_layers,
        intermediate=intermediate_size(config.hidden_size),
        vocabulary=config.vocabulary_size,
        query=config.hidden_size,
        key_value=config.hidden_size,
        tied=True,
    )


def _config_shape(path: Path) -> ModelShape | None:
    config = _json(path, path.read_bytes())
    try:
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        head = config.get("head_dim") or hidden // heads
        return ModelShape(
            hidden=hidden,
            layers=config["num_hidden_layers"],
            intermediate=config["intermediate_size"],
            vocabulary=config["vocab_size"],
            query=heads * head,
            key_value=(config.get("num_key_value_heads") or heads) * head,
            tied=config.get("tie_word_embeddings", False),
        )
    except (KeyError, TypeError):
        return None


def _safetensors_parameters(path: Path) -> int:
    with path.open("rb") as file:
        size = file.read(8)
        if len(size) < 8 or (length := struct.unpack("<Q", size)[0]) > path.stat().st_size:
            raise ConfigError(f"model.path: {path} is not a whole safetensors file (a Git LFS pointer?)")
        header = _json(path, file.read(length))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _json(path: Path, content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ConfigError(f"model.path: {path} is damaged; a JSON object was expected")
    return value


def _gguf_size(path: Path) -> ModelSize:
    """What the header of a GGUF file says: its tensors, and the widths among its entries."""
    kind = gguf_header(path, [_GGUF_KIND]).values.get(_GGUF_KIND)
    header = gguf_header(path, [f"{kind}.{key}" for key in _GGUF_KEYS])
    numbers = {name.removeprefix(f"{kind}."): value for name, value in header.values.items()}
    return ModelSize(header.parameters, _gguf_shape(numbers, header.shapes))


def _gguf_shape(numbers: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]) -> ModelShape | None:
    try:
        hidden, heads = numbers["embedding_length"], numbers["attention.head_count"]
        head = numbers.get("attention.key_length") or hidden // heads
        return ModelShape(
            hidden=hidden,
            layers=numbers["block_count"],
            intermediate=numbers["feed_forward_length"],
            vocabulary=shapes["token_embd.weight"][1],
            query=heads * head,
            key_value=numbers.get("attention.head_count_kv", heads) * head,
            tied="output.weight" not in shapes,
        )
    except (KeyError, IndexError):
        return None

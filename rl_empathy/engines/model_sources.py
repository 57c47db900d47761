"""Where the starting model comes from: a folder, a hub, a package, or made on the spot. Always ends as a folder."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from rl_empathy.config.model_size import gguf_file, intermediate_size
from rl_empathy.config.sections import DataConfig, FromScratchConfig, ModelConfig, OptimizerConfig
from rl_empathy.engines.chat_files import is_fitting, link_weights, require_same_chat, write_chat
from rl_empathy.engines.chat_sources import folder_chat, gguf_chat
from rl_empathy.engines.chat_templates import TEMPLATES, ChatText, fitted, template_file
from rl_empathy.engines.language_models import compare_saved, own_logprobs, probe_samples
from rl_empathy.engines.objectives.sft import Likelihood
from rl_empathy.engines.policy_model import PolicyModel
from rl_empathy.engines.shared_prompt import Sample
from rl_empathy.engines.training import TrainingEngine
from rl_empathy.errors import ModelError
from rl_empathy.observability.disk import whole_folder

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>")
END, PAD = "<|end|>", "<|pad|>"

Progress = Callable[[int, dict[str, float]], None]
"""(step, metrics) of the language modelling of a model made on the spot."""


def starting_model(
    config: ModelConfig,
    folder: Path,
    *,
    data: DataConfig | None = None,
    texts: Sequence[str],
    instruction: str,
    delimiters: Sequence[str],
    seed: int,
    progress: Progress,
) -> Path:
    """Bring the run's starting model into a folder; a finished one is used again.

    A local model whose own chat template and ends are right as they are stays where it is. Of another one the folder
    has links to the weights, and a tokenizer with the fitted template.

    Args:
        config: Section model.
        folder: Where to put what has to be made, converted or fitted.
        data: Section data, which says where the instruction stands; its defaults when left out.
        texts: The run's own text, for a tokenizer and a model made on the spot.
        instruction: The schema's, whose words the tokenizer should know.
        delimiters: The schema's, which get a token each in a tokenizer made on the spot.
        seed: Seed of a model made on the spot.
        progress: Told of the steps of language modelling.

    Returns:
        A folder with config.json, safetensors and a tokenizer with a chat template.

    Raises:
        ModelError: There is no such model, or its chat template cannot be used.
    """
    section = data or DataConfig()
    wanted = _wanted_chat(config, section)
    if (folder / "config.json").is_file():
        require_same_chat(folder, wanted)
        return folder
    if config.from_scratch is None:
        return _fitted_source(config, section, folder, wanted, delimiters)
    with whole_folder(folder) as made:
        make_from_scratch(config.from_scratch, made, [*texts, instruction], delimiters, seed, progress)
        fit = fitted(folder_chat(made), config, section, delimiters, date.today())
        write_chat(fit, wanted, made, tokenizer_from=made)
    return folder


def _has_own_template(config: ModelConfig) -> bool:
    """Whether the run file names a template file, and not one of the shipped templates."""
    return config.chat_template is not None and config.chat_template not in TEMPLATES


def _wanted_chat(config: ModelConfig, data: DataConfig) -> dict[str, Any]:
    """The chat settings that a prepared folder is made for; it is not used again with others."""
    wanted = config.model_dump(include={"chat_template", "chat_template_kwargs"})
    wanted["system_prompt_role"] = data.system_prompt_role
    if _has_own_template(config):  # its text counts, wherever it is
        text = template_file(str(config.chat_template))
        wanted["chat_template"] = f"sha256 {hashlib.sha256(text.encode()).hexdigest()}"
    return wanted


def _fitted_source(
    config: ModelConfig,
    data: DataConfig,
    folder: Path,
    wanted: Mapping[str, Any],
    delimiters: Sequence[str],
) -> Path:
    """The folder of the model that the run file names: its own where nothing has to be changed, else `folder`."""
    source, chat = _source(config)
    fit = fitted(chat, config, data, delimiters, date.today())
    if source.is_dir() and not _has_own_template(config) and is_fitting(chat, fit):
        return source
    with whole_folder(folder) as made:
        if source.is_dir():
            link_weights(source, made)
        else:
            convert_gguf(source, made, adds_bos=chat.adds_bos)
        write_chat(fit, wanted, made, tokenizer_from=source if source.is_dir() else made)
    return folder


def _source(config: ModelConfig) -> tuple[Path, ChatText]:
    """The folder or GGUF file that the run file names, and its text's rules; nothing is loaded."""
    assert config.path is not None
    if file := gguf_file(config.path):
        return file, gguf_chat(file)
    folder = local_or_hub(config.path, config.revision)
    return folder, folder_chat(folder)


def make_from_scratch(
    config: FromScratchConfig,
    folder: Path,
    texts: Sequence[str],
    delimiters: Sequence[str],
    seed: int,
    progress: Progress,
) -> None:
    """Train a tokenizer on the texts, make a small Llama, and let it model the texts for `num_steps`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = train_tokenizer(texts, delimiters, vocabulary_size=config.vocabulary_size)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=intermediate_size(config.hidden_size),
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_heads,
            max_position_embeddings=config.context_tokens,
            tie_word_embeddings=True,
            # Short contexts and few steps: with these a small model finds the structure of its completions in half
            # the steps that the defaults of large ones take (10000 and 0.02).
            rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
            initializer_range=0.04,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    if config.num_steps:
        _model_language(config, folder, tokenizer, texts, seed, progress)


def train_tokenizer(texts: Iterable[str], delimiters: Sequence[str], *, vocabulary_size: int) -> Any:
    """A byte-level BPE tokenizer; roles, end and the schema's delimiters are one token each."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[PAD, END, *ROLE_TOKENS, *delimiters],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[*ROLE_TOKENS, *delimiters],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def convert_gguf(file: Path, folder: Path, *, adds_bos: bool) -> None:
    """Dequantise a GGUF file into a transformers folder with safetensors (half a minute for 135M parameters).

    Args:
        file: The GGUF file.
        folder: Where to.
        adds_bos: The file's rule, which transformers passes over: every text begins with the bos token.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"{file} cannot be converted: {error}") from error
    settings = {
        k: v for k, v in loaded.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")
    }
    # A model that was loaded from GGUF refuses to be saved; one made from its configuration does not.
    model = AutoModelForCausalLM.from_config(type(loaded.config)(**settings), dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    with torch.no_grad():
        logprobs = own_logprobs(loaded, probe_samples(loaded.config))
    del loaded
    model.save_pretrained(folder)
    del model
    compare_saved(folder, logprobs, file.name)
    if adds_bos:
        tokenizer.add_bos_token = True  # type: ignore[misc]  # it has a setter
    tokenizer.save_pretrained(folder)


def local_or_hub(path: str, revision: str | None) -> Path:
    local = Path(path).expanduser()
    if local.is_dir():
        return local
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        patterns = ["*.json", "*.safetensors", "*.txt", "*.jinja", "tokenizer*"]
        return Path(snapshot_download(path, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"model.path {path}: there is no such folder, and no such model could be had from the hub "
            f"({type(error).__name__}); give a local folder, a GGUF file, a hub id, or package://<package>/<file.gguf>"
        ) from error


def language_samples(tokenizer: Any, texts: Sequence[str], *, most_tokens: int) -> list[Sample]:
    """Each text between two end tokens, cut to so many tokens and one; "<|end|>" in a text is what somebody wrote."""
    end = tokenizer.eos_token_id
    ids = [tokenizer(text, split_special_tokens=True)["input_ids"][: most_tokens - 1] for text in texts]
    return [Sample([end], [[*tokens, end]]) for tokens in ids if tokens]


def _model_language(
    config: FromScratchConfig,
    folder: Path,
    tokenizer: Any,
    texts: Sequence[str],
    seed: int,
    progress: Progress,
) -> None:
    model = PolicyModel(str(folder), dtype="float32", layout="shared_prompt")
    settings = OptimizerConfig(
        learning_rate=config.learning_rate, warmup_steps=max(1, config.num_steps // 20), weight_decay=0.1
    )
    engine = TrainingEngine(
        model, settings, num_steps=config.num_steps, microbatch_tokens=min(config.batch_tokens, 4096)
    )
    held_out = max(1, min(64, len(texts) // 20))
    sequences = language_samples(tokenizer, texts, most_tokens=config.context_tokens)
    order = torch.Generator().manual_seed(seed)
    train = [sequences[i] for i in torch.randperm(len(sequences) - held_out, generator=order).tolist()]
    at = 0
    for step in range(1, config.num_steps + 1):
        batch: list[Sample] = []
        tokens = 0
        while tokens < config.batch_tokens and len(batch) < len(train):
            batch.append(train[at % len(train)])
            tokens += len(batch[-1].completions[0])
            at += 1
        report = engine.update(Likelihood(batch))
        if step % 20 == 0 or step == config.num_steps:
            progress(step, {"base/loss": report.loss, "base/learning_rate": report.learning_rate})
    held = sequences[-held_out:]
    with torch.no_grad():
        logprobs = engine.logprobs(held, temperature=1.0)
    perplexity = float((-logprobs.mean()).exp())
    progress(config.num_steps, {"base/held_out_perplexity": perplexity})
    (folder / "perplexity.json").write_text(
        json.dumps({"held_out_perplexity": perplexity, "texts": held_out})
    )
    trained = folder.with_name("language_model")
    engine.export(trained, tokenizer_from=str(folder))
    for path in trained.iterdir():
        path.replace(folder / path.name)
    trained.rmdir()

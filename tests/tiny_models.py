"""A tiny language model with a real tokenizer, made on the spot: no hub, a second, 0.6 MB."""

import json
from itertools import pairwise
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from rl_empathy.data.conversations import completion_token_ids, prompt_token_ids
from rl_empathy.schema import CHAIN_OF_EMPATHY, OutputSchema
from rl_empathy.types import Message

END = "<|im_end|>"
PAD = "<|pad|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS = (
    "I feel lost at work, and nobody seems to notice how tired I am.",
    "It sounds exhausting to carry all of that alone; your worry makes sense.",
    "我最近很焦虑，晚上睡不着，觉得没有人理解我。",
)


def make_tiny_tokenizer(
    schema: OutputSchema = CHAIN_OF_EMPATHY, *, vocab_size: int = 512
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that holds the delimiters of the schema as special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|im_start|>", END, PAD, *schema.delimiters],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=["<|im_start|>", *schema.delimiters],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_tiny_model(
    folder: Path,
    *,
    schema: OutputSchema = CHAIN_OF_EMPATHY,
    hidden_size: int = 64,
    num_layers: int = 2,
    max_tokens: int = 1024,
    tied: bool = True,
    seed: int = 0,
) -> Path:
    """Write a random Llama (0.15 M parameters) and its tokenizer, as `save_pretrained` does.

    Args:
        folder: Where to; made if need be.
        schema: Whose delimiters become special tokens.
        hidden_size: Width, a multiple of 32: heads of 32.
        num_layers: Depth.
        max_tokens: Longest sequence.
        tied: The head is the embedding.
        seed: Seed of the weights.

    Returns:
        The folder.
    """
    tokenizer = make_tiny_tokenizer(schema)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=hidden_size // 32,
        num_key_value_heads=1,
        head_dim=32,  # the smallest that vLLM's CPU attention has
        max_position_embeddings=max_tokens,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_parrot_model(folder: Path, completion: str, *, schema: OutputSchema = CHAIN_OF_EMPATHY) -> Path:
    """Write a model that answers everything with one completion, at any temperature up to 2.

    Its layers add nothing, so that the next token depends on the last one only: the weights are a table
    `token -> next token`, over random embeddings. Every token of the completion must therefore be another.

    Raises:
        ValueError: A token comes twice, so the table would have two entries for it.
    """
    make_tiny_model(folder, schema=schema, hidden_size=128, tied=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(folder))
    last = prompt_token_ids(tokenizer, [Message(role="user", content="")])[-1]
    chain = [last, *completion_token_ids(tokenizer, completion)]
    if len(set(chain)) < len(chain):
        raise ValueError(f"a token comes twice in {tokenizer.convert_ids_to_tokens(chain)}")
    signs = torch.randint(
        2, model.model.embed_tokens.weight.shape, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(signs * 2.0 - 1.0)
        model.lm_head.weight.zero_()
        for token, following in pairwise(chain):
            model.lm_head.weight[following] = model.model.embed_tokens.weight[token]
    model.save_pretrained(folder)
    return folder


def make_model_of(
    folder: Path, config_class: type[PreTrainedConfig], *, vocab_size: int, seed: int = 0, **shape: int
) -> Path:
    """Write a random model of any architecture, with a tokenizer of its own size."""
    tokenizer = make_tiny_tokenizer(vocab_size=vocab_size)
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 1024,
    }
    config = config_class(
        vocab_size=len(tokenizer),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **(sizes | shape),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def permute_token_ids(model: Path, folder: Path, *, seed: int = 0) -> Path:
    """Write a model that is equal but for its token ids: rows of embedding and head, and the tokenizer, permuted."""
    language_model = AutoModelForCausalLM.from_pretrained(model)
    size = language_model.get_input_embeddings().weight.shape[0]
    new_id = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    layers = {language_model.get_input_embeddings(), language_model.get_output_embeddings()}
    with torch.no_grad():
        for weight in {layer.weight for layer in layers}:  # one where they are tied
            weight[new_id] = weight.clone()
    for config in (language_model.config, language_model.generation_config):
        for name in ("eos_token_id", "pad_token_id"):
            setattr(config, name, int(new_id[getattr(language_model.config, name)]))
    language_model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {token: int(new_id[old]) for token, old in vocabulary.items()}
    for added in tokenizer["added_tokens"]:
        added["id"] = int(new_id[added["id"]])
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    described = folder / "tokenizer_config.json"
    settings = json.loads(described.read_text(encoding="utf-8"))
    settings.pop("added_tokens_decoder", None)
    described.write_text(json.dumps(settings), encoding="utf-8")
    return folder

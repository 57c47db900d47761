"""A tiny language model with a real tokenizer, made on the spot: no hub, a second, 0.6 MB."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rl_empathy.schema import CHAIN_OF_EMPATHY, OutputSchema

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
    seed: int = 0,
) -> Path:
    """Write a random Llama (0.15 M parameters) and its tokenizer, as `save_pretrained` does.

    Args:
        folder: Where to; made if need be.
        schema: Whose delimiters become special tokens.
        hidden_size: Width; four heads.
        num_layers: Depth.
        max_tokens: Longest sequence.
        seed: Of the weights.

    Returns:
        The folder.
    """
    tokenizer = make_tiny_tokenizer(schema)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden_size // 4,
        max_position_embeddings=max_tokens,
        tie_word_embeddings=True,
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

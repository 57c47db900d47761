"""An objective that nobody here wrote: it compares the completions of a prompt, and the package is not touched."""

from dataclasses import dataclass

import pytest
import torch

from rl_empathy.config.sections import OptimizerConfig
from rl_empathy.engines.microbatches import share_out, split_by_tokens
from rl_empathy.engines.policy_model import PolicyModel
from rl_empathy.engines.shared_prompt import Sample
from rl_empathy.engines.training import TrainingEngine
from tests.tiny_models import make_tiny_model

PAIRS = [
    Sample([1, 2, 3], [[5, 6, 7], [8, 9]], indivisible=True),
    Sample([9, 8], [[7, 6, 5, 4], [3]], indivisible=True),
    Sample([4, 4, 4, 4], [[2, 1], [6, 6, 6]], indivisible=True),
]


@dataclass(frozen=True)
class Preference:
    """The first completion is to be likelier than the second: -log σ(log π(a) - log π(b)), the mean over pairs."""

    samples: list[Sample]
    temperature: float = 1.0

    def loss(self, outputs, part):
        of_each = torch.zeros(int(outputs.completion_index.max()) + 1).index_add(
            0, outputs.completion_index, outputs.logprobs
        )
        preferred, other = of_each.unflatten(0, (-1, 2)).unbind(1)
        return -torch.nn.functional.logsigmoid(preferred - other).sum() / len(self.samples)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    make_tiny_model(path)
    return str(path)


def losses(folder, layout, microbatch_tokens):
    model = PolicyModel(folder, dtype="float32", layout=layout)
    settings = OptimizerConfig(learning_rate=1e-2, warmup_steps=0, schedule="constant")
    engine = TrainingEngine(model, settings, num_steps=10, microbatch_tokens=microbatch_tokens)
    return [engine.update(Preference(PAIRS)).loss for _ in range(4)]


@pytest.mark.parametrize(
    ("layout", "microbatch_tokens"),
    [("shared_prompt", 4096), ("shared_prompt", 9), ("packed", 12), ("one_sequence", 4096)],
)
def test_pairs_are_trained_alike_in_every_layout_and_however_small_the_micro_batches(
    folder, layout, microbatch_tokens
):
    found = losses(folder, layout, microbatch_tokens)
    assert found == pytest.approx(losses(folder, "packed", 4096), rel=1e-4)
    assert found[-1] < found[0]


def test_what_belongs_together_stays_in_one_micro_batch_and_on_one_rank():
    # A pair feeds the prompt and what comes before each last token: 6, 5 and 7 tokens.
    assert split_by_tokens(PAIRS, max_tokens=11, layout="shared_prompt") == [PAIRS[:2], PAIRS[2:]]
    assert split_by_tokens(PAIRS, max_tokens=1, layout="shared_prompt") == [[pair] for pair in PAIRS]
    assert split_by_tokens(PAIRS, max_tokens=99, layout="one_sequence") == [[pair] for pair in PAIRS]
    # Their middles lie at 3, 8.5 and 14.5 of 18 tokens.
    assert share_out(PAIRS, ranks=2, layout="shared_prompt") == [PAIRS[:2], PAIRS[2:]]
    assert share_out(PAIRS, ranks=4, layout="shared_prompt") == [PAIRS[:1], PAIRS[1:2], [], PAIRS[2:]]


def test_what_is_said_of_tokens_goes_with_the_completions_that_are_cut_off():
    mask, advantages = [[True, False], [True, True]], [[0.5, 0.0], [-1.0, -1.0]]
    sample = Sample([1], [[2, 3], [4, 5]], loss_mask=mask, advantages=advantages)
    assert sample.num_trained_tokens == 3
    first, second = (batch[0] for batch in split_by_tokens([sample], max_tokens=2, layout="shared_prompt"))
    assert first == Sample([1], [[2, 3]], loss_mask=[[True, False]], advantages=[[0.5, 0.0]])
    assert second == Sample([1], [[4, 5]], loss_mask=[[True, True]], advantages=[[-1.0, -1.0]])

"""TRL's GRPO on a CPU, to be run in the environment that `trl_environment.py` makes. Not a benchmark itself.

The first line of its standard input is the order as JSON: `model` (a folder), `prompts` (lists of messages), `rewards`
(dotted paths of reward functions of `rewards.terms`, whose sum is trained) and `arguments` (of TRL's
GRPOConfig). Every further line asks for one step, which is answered with one line of JSON; the end of the input ends
the training.
"""

import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TextIO


def distinct_words(view: Any) -> list[float]:
    """Different words over words of each completion, 0 to 1: a reward with spread in every group, for any model."""
    words = [completion.text.split() for completion in view.completions]
    return [len(set(each)) / max(1, len(each)) for each in words]


def keeps_form(view: Any) -> list[float]:
    """What the reward term `format` gives."""
    return [float(completion.keeps_form) for completion in view.completions]


class Scores:
    """A reward function of rl_empathy, called as TRL calls its own; remembers what a step was given."""

    def __init__(self, path: str, tokenizer: Any) -> None:
        module, _, name = path.rpartition(".")
        self.__name__ = name
        self._function: Callable[..., list[float]] = getattr(importlib.import_module(module), name)
        self._tokenizer = tokenizer
        self.rewards: list[float] = []
        self.completion_tokens: list[int] = []

    def __call__(self, completion_ids: list[list[int]], **_: Any) -> list[float]:
        from rl_empathy.schema import CHAIN_OF_EMPATHY

        completions = [self._completion(ids, CHAIN_OF_EMPATHY) for ids in completion_ids]
        self.rewards = self._function(SimpleNamespace(completions=completions))
        self.completion_tokens = [len(ids) for ids in completion_ids]
        return self.rewards

    def _completion(self, ids: list[int], schema: Any) -> SimpleNamespace:
        """As rl_empathy has it: special tokens kept, without the end token."""
        ended = ids[-1] == self._tokenizer.eos_token_id
        text = self._tokenizer.decode(
            ids[:-1] if ended else ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return SimpleNamespace(text=text, keeps_form=ended and schema.parse(text, strict=True).valid)


def one_step_a_line(answers: TextIO, terms: list[Scores]) -> Any:
    """A callback that lets the trainer make one step for each line of standard input, and answers it with a line.

    Args:
        answers: The stream that gets one line of JSON a step.
        terms: The reward functions of the trainer, which remember the step's rewards.
    """
    from transformers import TrainerCallback

    class OneStepALine(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self._wait(control)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            answer = {
                "step_s": time.monotonic() - self._started,
                "rewards": [sum(each) for each in zip(*(term.rewards for term in terms), strict=True)],
                "completion_tokens": terms[0].completion_tokens,
            }
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
            self._wait(control)

        def _wait(self, control: Any) -> None:
            control.should_training_stop = not sys.stdin.readline()
            self._started = time.monotonic()

    return OneStepALine()


def main() -> None:
    # Standard output carries the answers only. All other prints go to standard error.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    order = json.loads(sys.stdin.readline())

    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(order["model"])
    terms = [Scores(path, tokenizer) for path in order["rewards"]]

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            adam_beta2=0.95,  # as rl_empathy
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **{"lr_scheduler_type": "constant", "max_steps": 1_000_000} | order["arguments"],
        )
        trainer = GRPOTrainer(
            order["model"],
            terms,
            config,
            Dataset.from_list([{"prompt": prompt} for prompt in order["prompts"]]),
            callbacks=[one_step_a_line(answers, terms)],
        )
        trainer.train()

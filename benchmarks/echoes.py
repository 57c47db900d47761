"""Does the reward model of a run file pay for an answer, or for an echo?

    .venv/bin/python benchmarks/echoes.py configs/counselchat_cpu.yaml [section.key=value …]

Trains the reward model as stage reward_modeling does, in this process, and prints what echoes of the held-out posts
would earn: under the plain cosine of the untrained encoder, under the score with the same encoder, and under the score
of the trained one. Beside the kinds of the stage's own table it tries mixtures that no negative was made for:

    half           the first half of the post, then comfort
    turned         the whole post with its pronouns turned round
    preface        the first sentence of the post, then an answer to another topic
    filler         the post with a filler word after every second word
    keywords       half of the post's content words, then comfort
    about          five content words in a sentence of their own, then comfort
"""

import json
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from rl_empathy.config.loading import load_run_file
from rl_empathy.data.corruptions import joined, sentences
from rl_empathy.data.echo_phrases import PROBES
from rl_empathy.data.echoes import ECHO_KINDS, content_words, language_of, turned_round, units
from rl_empathy.data.loading import load_data
from rl_empathy.data.triplets import ANOTHER_TOPIC
from rl_empathy.engines.echo_earnings import Probe, earnings_lines, echo_earnings, paying_echoes
from rl_empathy.engines.embedding import as_pair_sides
from rl_empathy.engines.reward_training import RewardTraining
from rl_empathy.orchestration.stages.reward_modeling import prepared

OUT = Path(__file__).parent / "out" / "echoes.json"
NUM_POSTS = 100
FILLER = {"en": "well", "zh": "嗯"}
ABOUT = {"en": "This is about ", "zh": "这是关于"}


def mixtures(probe: Probe) -> dict[str, str]:
    """Echoes that a policy could find beyond the listed kinds."""
    post, rng = probe.post, random.Random(probe.post)
    language = language_of(post)
    comfort = joined(rng.sample(PROBES[language].warmth, 3))
    words, content = units(post), content_words(post)
    every = 2 if language == "en" else 4
    cut = [words[i : i + every] for i in range(0, len(words), every)]
    space = " " if language == "en" else ""
    return {
        "half": joined([space.join(words[: len(words) // 2]), comfort]),
        "turned": turned_round(post),
        "preface": joined([sentences(post)[0], probe.echoes[ANOTHER_TOPIC]]),
        "filler": space.join(word for few in cut for word in (*few, FILLER[language])),
        "keywords": joined([*rng.sample(content, (len(content) + 1) // 2), comfort]),
        "about": joined([ABOUT[language] + joined(rng.sample(content, min(5, len(content)))) + ".", comfort]),
    }


def with_mixtures(probes: Sequence[Probe]) -> list[Probe]:
    return [replace(p, echoes=dict(p.echoes) | mixtures(p)) for p in probes[:NUM_POSTS]]


def main(arguments: Sequence[str]) -> None:
    run_file = load_run_file(arguments[0], [f"data.held_out_prompts={NUM_POSTS}", *arguments[1:]])
    seed, config = run_file.run.seed, run_file.reward_modeling
    data = load_data(run_file.data, seed=seed)
    result: dict[str, Any] = {"arguments": list(arguments)}
    with tempfile.TemporaryDirectory() as folder:
        training = prepared(config, data, run_file.data.language, seed=seed, folder=Path(folder))
        probes = with_mixtures(training.probes)
        tables = {
            "plain cosine": echo_earnings(lambda pairs: cosines(training, pairs), probes),
            "score, untrained": echo_earnings(training.scores, probes),
        }
        while training.step < config.num_steps:
            training.update()
        trained = tables[f"score, {config.num_steps} steps"] = echo_earnings(training.scores, probes)
        print(f"{arguments[0]}: {len(probes)} posts, median and wins under {', '.join(tables)}")
        for lines in zip(*(earnings_lines(table) for table in tables.values()), strict=True):
            print(lines[0][:19] + "   ".join(f"{line[19:]:17}" for line in lines))
        for name, value in training.evaluation.items():
            print(f"  {name:44} {value:.3f}")
    result |= {name: {k: asdict(e) for k, e in table.items()} for name, table in tables.items()}
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(result | {"accuracy": training.evaluation}, indent=1), encoding="utf-8")
    listed = [trained[kind].win_fraction for kind in (*ECHO_KINDS, ANOTHER_TOPIC)]
    print(f"RESULT paying_echoes={len(paying_echoes(trained))} worst_win_fraction={max(listed):.3f}")


def cosines(training: RewardTraining, pairs: Sequence[tuple[str, str]]) -> Tensor:
    """What each answer would earn if copying cost nothing."""
    texts = as_pair_sides([question for question, _ in pairs], [answer for _, answer in pairs])
    questions, answers = training.engine.encoder.encode(texts, max_tokens=training.max_tokens).split(
        len(pairs)
    )
    return (questions * answers).sum(-1)


if __name__ == "__main__":
    main(sys.argv[1:])

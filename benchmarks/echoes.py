"""Does the reward model of a run file pay for an answer, or for an echo?

    .venv/bin/python benchmarks/echoes.py configs/counselchat_cpu.yaml [section.key=value …]

Trains the reward model as stage reward_modeling does, in this process, and prints what echoes of the held-out posts
would earn before and after. Beside the kinds of the stage's own table it tries mixtures that no negative was made for:

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

from rl_empathy.config.loading import load_run_file
from rl_empathy.data.corruptions import joined, sentences
from rl_empathy.data.echo_phrases import PROBES
from rl_empathy.data.echoes import content_words, language_of, turned_round, units
from rl_empathy.data.loading import load_data
from rl_empathy.data.triplets import ANOTHER_TOPIC
from rl_empathy.engines.echo_earnings import Probe, earnings_lines, echo_earnings
from rl_empathy.orchestration.reward_modeling import prepared

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
    result = {"arguments": list(arguments)}
    with tempfile.TemporaryDirectory() as folder:
        training = prepared(config, data, run_file.data.language, seed=seed, folder=Path(folder))
        probes = with_mixtures(training.probes)
        for when in ("before", "after"):
            table = echo_earnings(training.scores, probes)
            print(f"{arguments[0]}, {len(probes)} posts, {when} its {config.num_steps} steps")
            print("\n".join(earnings_lines(table)), flush=True)
            result[when] = {kind: asdict(earned) for kind, earned in table.items()}
            while when == "before" and training.step < config.num_steps:
                training.update()
    print({name: round(value, 3) for name, value in training.evaluation.items()})
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(result | {"accuracy": training.evaluation}, indent=1), encoding="utf-8")
    worst = max((e["win_fraction"] for e in result["after"].values()), default=0.0)
    print(
        f"RESULT worst_win_fraction={worst:.3f} references_median={result['after']['references']['median']:.3f}"
    )


if __name__ == "__main__":
    main(sys.argv[1:])

from collections.abc import Sequence

import torch

from rl_empathy.engines.echo_earnings import Earnings, Probe, earnings_lines, echo_earnings, paying_echoes

SCORES = {"good": 0.6, "fair": 0.2, "fine": 0.4, "copy one": 0.5, "copy two": 0.9, "warm": 0.2}
PROBES = [
    Probe(post="one", references=("good", "fair"), echoes={"copy": "copy one", "warmth": "warm"}),
    Probe(post="two", references=("fine",), echoes={"copy": "copy two", "warmth": "warm"}),
]


def scores_of(pairs: Sequence[tuple[str, str]]) -> torch.Tensor:
    return torch.tensor([SCORES[answer] for _, answer in pairs], dtype=torch.float64)


def test_medians_and_wins_by_hand() -> None:
    table = echo_earnings(scores_of, PROBES)
    # references .6 .2 .4; copies .5 (beats one of two) and .9 (beats one of one); warmth .2 (equals one of two) and .2
    assert table == {
        "references": Earnings(median=0.4, win_fraction=0.0),
        "copy": Earnings(median=0.7, win_fraction=0.75),
        "warmth": Earnings(median=0.2, win_fraction=0.25),
    }


def test_an_echo_pays_when_its_median_reaches_that_of_the_references() -> None:
    table = echo_earnings(scores_of, PROBES)
    assert paying_echoes(table) == ["copy"]
    assert paying_echoes(table | {"warmth": Earnings(median=0.4, win_fraction=0.1)}) == ["copy", "warmth"]


def test_the_table_names_every_kind_with_its_median_and_wins() -> None:
    lines = earnings_lines(echo_earnings(scores_of, PROBES))
    assert [line.split() for line in lines[1:]] == [
        ["references", "0.400"],
        ["copy", "0.700", "75.0", "%"],
        ["warmth", "0.200", "25.0", "%"],
    ]

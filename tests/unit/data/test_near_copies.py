"""Posts that are nearly the same, and references at several posts, stay on one side of a split."""

import json
from itertools import combinations
from pathlib import Path

import pytest
from sklearn.feature_extraction.text import CountVectorizer

from rl_empathy.config.sections import DataConfig
from rl_empathy.data.loading import load_data
from rl_empathy.data.near_copies import linked_groups, near_copies, shared_references
from rl_empathy.data.text import folded
from rl_empathy.types import Message, Reference, Row

REAL = Path(__file__).parents[4] / "shared" / "data"
POST = (
    "Since I changed my job in spring I lie awake every night, go through every sentence that I said in the meetings, "
    "and wait for the letter in which they tell me that I may go."
)
OTHER = (
    "My daughter has moved to another town for her studies, the house is quiet, and I set the table for three people "
    "again and again before I notice that nobody else will come."
)
REPLY = "It makes sense that the nights are hard: by day you hold everything together, and at night it comes to you."


def make_row(number: int, post: str, *references: str) -> Row:
    return Row(
        id=f"row-{number:02}",
        messages=(Message(role="user", content=post),),
        references=tuple(Reference(text=text) for text in references),
    )


@pytest.mark.parametrize(
    "copy",
    [
        "What can I do? " + POST,
        POST[: len(POST) // 2],
        POST.upper().replace(",", " ..."),
        POST.replace("spring", "autumn").replace("every night", "at night"),
    ],
)
def test_a_repost_with_a_title_cut_short_or_mended_is_a_near_copy(copy: str) -> None:
    assert near_copies([POST, OTHER, copy], "en") == [(0, 2)]


def test_posts_that_begin_alike_and_go_on_differently_are_none() -> None:
    greeting = "Hello, I hope that somebody here can help me with my problem."
    assert near_copies([f"{greeting} {POST}", f"{greeting} {OTHER}"], "en") == []
    assert near_copies([greeting[:30], f"{greeting[:30]} {POST}"], "en") == []


def test_chinese_posts_are_compared_as_well() -> None:
    post = (
        "自从春天换了工作，我每天晚上都睡不着，反复想着会上说过的每一句话，总觉得很快就会收到让我离开的通知。"
    )
    other = "女儿去了别的城市上学，家里一下子安静下来，我常常摆好三个人的碗筷，才发现不会再有人回来吃饭了。"
    assert near_copies([post, other, "怎么办？" + post[:40]], "zh") == [(0, 2)]


def test_near_copies_are_the_pairs_that_scikit_learns_counts_give() -> None:
    posts = [POST, OTHER, POST[40:] + OTHER[:60], OTHER[:120] + POST[:30], POST[:90], "sleep", ""]
    counts = CountVectorizer(analyzer="char", ngram_range=(20, 20), binary=True, lowercase=False)
    table = counts.fit_transform(map(folded, posts)).toarray()
    expected = [
        (a, b)
        for a, b in combinations(range(len(posts)), 2)
        if (smaller := min(table[a].sum(), table[b].sum())) >= 20 and table[a] @ table[b] >= 0.5 * smaller
    ]
    assert near_copies(posts, "en") == expected
    assert len(expected) >= 3


def test_rows_with_an_equal_long_reference_are_linked_but_not_by_a_set_phrase_or_a_stock_reply() -> None:
    rows = [
        make_row(0, POST, REPLY),
        make_row(1, OTHER, "Thank you.", REPLY.upper()),
        make_row(2, "?", "Thank you."),
    ]
    assert shared_references(rows, "en") == [(0, 1)]
    stock = [make_row(i, str(i), REPLY) for i in range(21)]
    assert shared_references(stock[:20], "en") == [(i, i + 1) for i in range(19)]
    assert shared_references(stock, "en") == []


def test_what_is_linked_through_others_is_one_group() -> None:
    assert sorted(linked_groups(6, [(0, 2), (2, 5), (1, 3)])) == [[0, 2, 5], [1, 3], [4]]
    assert linked_groups(2, []) == [[0], [1]]


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_near_copies_and_shared_references_are_on_one_side_and_counted(tmp_path: Path) -> None:
    words = [f"w{i}x{i * 7}" for i in range(600)]
    rows = []
    for i in range(20):
        post, reply = (
            " ".join(words[i * 20 : i * 20 + 20]),
            " ".join(words[i * 9 : i * 9 + 9]) + f" reply {i}" * 9,
        )
        rows.append(
            {"id": f"a{i}", "messages": [{"role": "user", "content": post}], "references": [{"text": reply}]}
        )
        if i < 6:
            copied = {
                "id": f"b{i}",
                "messages": [{"role": "user", "content": "Again: " + post}],
                "references": [],
            }
            rows.append(copied)
        if 6 <= i < 10:
            other = " ".join(reversed(words[i * 20 + 100 : i * 20 + 120]))
            rows.append(
                {
                    "id": f"b{i}",
                    "messages": [{"role": "user", "content": other}],
                    "references": [{"text": reply}],
                }
            )
    source = write(tmp_path / "rows.jsonl", rows)
    for seed in range(8):
        data = load_data(DataConfig(train=source, held_out_prompts=10), seed=seed)
        held_out = {row.id for row in data.held_out}
        assert all((f"a{i}" in held_out) == (f"b{i}" in held_out) for i in range(10))
        assert (data.counts["near_copies"], data.counts["shared_references"]) == (12, 8)
        assert {(link.one, link.other, link.reason) for link in data.links} >= {("a0", "b0", "near_copy")}
        assert {("a6", "b6", "shared_reference")} <= {
            (link.one, link.other, link.reason) for link in data.links
        }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "format", "language"),
    [("counselchat/train.jsonl", "counselchat", "en"), ("smile_zh/train.jsonl", "smile", "zh")],
)
def test_the_real_sets_have_no_near_copy_and_no_shared_reference_on_both_sides(
    file: str, format: str, language: str
) -> None:
    if not (REAL / file).exists():
        pytest.skip(f"the real text is not here: {REAL / file}")
    data = load_data(DataConfig(train=str(REAL / file), format=format, language=language), seed=0)  # type: ignore[arg-type]
    rows, split = [*data.held_out, *data.train], len(data.held_out)
    links = [*near_copies([row.post for row in rows], language), *shared_references(rows, language)]
    assert links
    assert not [pair for pair in links if pair[0] < split <= pair[1]]

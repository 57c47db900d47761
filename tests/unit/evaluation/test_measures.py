"""Text measures against numbers worked out by hand, and against the libraries that the field uses."""

import random
import subprocess
import sys
from itertools import product

import pytest
from sacrebleu.metrics.bleu import BLEU

from rl_empathy.evaluation.measures.bleu import bleu
from rl_empathy.evaluation.measures.copying import copy_rate
from rl_empathy.evaluation.measures.distinct import distinct
from rl_empathy.evaluation.measures.grounding import grounding
from rl_empathy.evaluation.measures.rouge import rouge_l
from rl_empathy.evaluation.tfidf import TfidfSimilarity
from rl_empathy.evaluation.words import content_words, tokenize


def test_english_words_are_lower_case_without_punctuation() -> None:
    assert tokenize("I can't sleep -- at ALL!", "en") == ("i", "can", "t", "sleep", "at", "all")


def test_chinese_words_are_those_of_jieba_without_punctuation() -> None:
    assert tokenize("我最近压力很大。睡不着觉。OK。", "zh") == (
        "我",
        "最近",
        "压力",
        "很大",
        "睡不着",
        "觉",
        "ok",
    )


@pytest.mark.parametrize("text", ["", "  \n", "?!…", "。。、"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_text_without_words_has_no_words(text: str, language) -> None:
    assert tokenize(text, language) == ()


def test_jieba_loads_in_silence_even_where_warnings_are_errors() -> None:
    code = "from rl_empathy.evaluation.words import tokenize; print(len(tokenize('我睡不着觉', 'zh')))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("3\n", "")


def test_rouge_l_is_f1_of_the_longest_common_subsequence() -> None:
    # LCS "the cat on the mat" = 5 words; P = 5/6, R = 5/5; F = 2 * 5 / (6 + 5)
    assert rouge_l("the cat sat on the mat", ["the cat on the mat"], "en") == pytest.approx(10 / 11)


def test_rouge_l_takes_the_reference_that_it_is_highest_for() -> None:
    assert rouge_l("you are heard", ["stay strong", "You are heard."], "en") == 1.0


def test_rouge_l_of_chinese_counts_words_not_characters() -> None:
    # 我 / 睡不着 / 觉 against 我 / 最近 / 睡不着 / 觉: LCS 3, F = 2 * 3 / (3 + 4)
    assert rouge_l("我睡不着觉", ["我最近睡不着觉"], "zh") == pytest.approx(6 / 7)


@pytest.mark.parametrize(("candidate", "reference"), [("", "a b"), ("a b", ""), ("", ""), ("a", "b")])
def test_rouge_l_is_zero_when_nothing_is_in_common(candidate: str, reference: str) -> None:
    assert rouge_l(candidate, [reference], "en") == 0.0


def test_rouge_l_needs_a_reference() -> None:
    with pytest.raises(ValueError, match="at least one reference"):
        rouge_l("a", [], "en")


@pytest.mark.filterwarnings("ignore")  # nltk, which only the oracle needs, is not quiet everywhere
def test_rouge_l_equals_that_of_the_rouge_score_package() -> None:
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]

    scorer, draw = RougeScorer(["rougeL"]), random.Random(0)
    for _ in range(60):
        candidate, *references = (" ".join(draw.choices("abcdef", k=draw.randint(0, 90))) for _ in range(4))
        expected = scorer.score_multi(references, candidate)["rougeL"].fmeasure
        assert rouge_l(candidate, references, "en") == pytest.approx(expected)


def test_bleu_of_a_reference_itself_is_100() -> None:
    scores = bleu(["I hear how tired you are."], [["Something else.", "I hear how tired you are."]], "en")
    assert scores.corpus == pytest.approx(100)
    assert scores.sentences == pytest.approx((100,))


def test_corpus_bleu_equals_that_of_sacrebleu() -> None:
    candidates = ["the cat sat on the mat today", "", "a dog barks at night"]
    references = [
        ["the cat sat on a mat today", "a cat sat"],
        ["so long", "bye"],
        ["a dog barks at me", "dogs"],
    ]
    expected = BLEU().corpus_score(candidates, [list(stream) for stream in zip(*references, strict=True)])
    assert bleu(candidates, references, "en").corpus == pytest.approx(expected.score)


def test_bleu_of_chinese_counts_characters() -> None:
    # 12 characters, one differs at the end: precisions 11/12, 10/11, 9/10, 8/9; their product is 8/12
    scores = bleu(["我知道你最近真的非常辛苦"], [["我知道你最近真的非常辛累"]], "zh")
    assert scores.sentences[0] == pytest.approx(100 * (8 / 12) ** 0.25)


def test_bleu_of_an_empty_candidate_is_zero() -> None:
    assert bleu([""], [["a reply"]], "en") == (0.0, (0.0,))


def test_bleu_of_no_candidates_is_zero() -> None:
    assert bleu([], [], "en") == (0.0, ())


def test_bleu_needs_a_reference_for_every_candidate() -> None:
    with pytest.raises(ValueError, match="at least one reference"):
        bleu(["a", "b"], [["a"], []], "en")


def test_distinct_divides_different_ngrams_by_all_of_them() -> None:
    texts = ["a b a b", "a b"]  # words a b a b a b: 2 of 6; pairs ab ba ab ab, none across texts: 2 of 4
    assert distinct(texts, 1, "en") == pytest.approx(2 / 6)
    assert distinct(texts, 2, "en") == pytest.approx(2 / 4)


def test_distinct_of_chinese_counts_words() -> None:
    assert distinct(["压力很大", "压力"], 1, "zh") == pytest.approx(2 / 3)  # 压力 很大 压力


@pytest.mark.parametrize(("texts", "n"), [([], 1), (["", ""], 1), (["one"], 2)])
def test_distinct_is_undefined_without_ngrams(texts: list[str], n: int) -> None:
    assert distinct(texts, n, "en") is None


def test_copy_rate_is_the_share_of_runs_of_four_words_that_the_prompt_has() -> None:
    # runs: "my boss yells at" (in), "boss yells at me" (in), "yells at me daily" (out)
    rate = copy_rate("My boss yells at me daily", "Sometimes my boss yells at me, and I cry.", "en")
    assert rate == pytest.approx(2 / 3)


def test_copy_rate_of_a_chinese_copy_is_one() -> None:
    post = "我最近压力很大。睡不着觉。"
    assert copy_rate(post, post, "zh") == 1.0


def test_copy_rate_of_fewer_than_four_words_is_undefined() -> None:
    assert copy_rate("my boss yells", "my boss yells at me", "en") is None


def test_copy_rate_from_an_empty_prompt_is_zero() -> None:
    assert copy_rate("it must be so hard", "", "en") == 0.0


def test_content_words_leave_function_words_and_short_words_out() -> None:
    assert content_words("I don't feel that my boss is with me", "en") == {"boss"}
    assert content_words("我觉得自己的压力很大", "zh") == {"压力", "很大"}


@pytest.mark.parametrize(
    ("trace", "expected"),
    [
        ("They fear the boss and the deadline.", 1.0),
        ("They mourn the dog.", 0.0),
        ("boss dog", 0.5),
        ("They feel sad and want to be heard.", 0.0),  # says nothing of either post
        ("...", 0.0),
        ("  ", 0.0),
    ],
)
def test_grounding_asks_which_post_shares_more_content_words(trace: str, expected: float) -> None:
    assert grounding(trace, "My boss set a deadline.", "My dog died.", "en") == expected


def test_grounding_of_chinese() -> None:
    assert grounding("求助者因为考试而压力很大", "下周考试。压力很大", "我和男朋友分手了", "zh") == 1.0


def test_tfidf_similarity_ranks_the_related_text_first() -> None:
    encoder = TfidfSimilarity(["我最近睡不着觉", "工作压力很大", "和男朋友分手了"])
    related, unrelated = encoder.similarities(["晚上睡不着觉"] * 2, ["我最近睡不着觉", "和男朋友分手了"])
    assert related > unrelated == 0.0


def test_tfidf_similarity_of_a_text_with_itself_is_one_and_with_nothing_is_zero() -> None:
    encoder = TfidfSimilarity(["I cannot sleep", "work is hard"])
    assert encoder.similarities(["sleep", "", "sleep"], ["sleep", "sleep", "."]) == pytest.approx([1, 0, 0])
    assert encoder.similarities([], []) == []


@pytest.mark.parametrize("texts", [[], ["", " "], ["a", "b"]])
def test_tfidf_similarity_needs_text(texts: list[str]) -> None:
    with pytest.raises(ValueError, match="needs text to count"):
        TfidfSimilarity(texts)


def test_tfidf_similarity_is_of_pairs() -> None:
    with pytest.raises(ValueError, match="2 and 1 texts"):
        TfidfSimilarity(["some text"]).similarities(["a", "b"], ["c"])


def test_every_fraction_lies_between_zero_and_one() -> None:
    texts = ["", "a", "a b c d e", "a b c d e a b c d e", "…"]
    for left, right in product(texts, texts):
        fractions = [
            rouge_l(left, [right], "en"),
            copy_rate(left, right, "en"),
            distinct([left, right], 2, "en"),
        ]
        assert all(fraction is None or 0 <= fraction <= 1 for fraction in fractions)

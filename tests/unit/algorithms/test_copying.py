import pytest

from rl_empathy.algorithms.copying import copied_fraction, own_words_factor, without_copied_runs

POST = "My boss shouts at me every day."


def test_the_copied_fraction_counts_each_different_word_once_by_its_letters_beyond_two() -> None:
    # of boss 2, tired 3, well 2 the post has boss; a person weighs nothing
    assert copied_fraction("Your boss: tired, well, tired, well", POST) == 2 / 7
    assert copied_fraction(POST, POST) == 1
    assert copied_fraction("day every me at shouts boss my", POST) == 1
    assert copied_fraction("", POST) == copied_fraction("…", POST) == copied_fraction("I am", POST) == 0


def test_short_words_of_comfort_do_not_hide_the_content_words_of_a_post() -> None:
    # shouts 4 and boss 2 are the post's; hear 2 is new, and I, am, so, do, we, it, me weigh nothing
    assert copied_fraction("I am so, so, do we do it me: shouts, boss, hear", POST) == 6 / 8


def test_the_copied_fraction_counts_chinese_by_the_character() -> None:
    # 很 and 累 of 很, 累, 吧; 你 is a person
    assert copied_fraction("你很累吧", "我很累。") == 2 / 3


def test_a_reward_falls_with_the_square_of_the_own_share_above_the_limit() -> None:
    # (1 - 0.8) / (1 - 0.6) = 1/2
    assert [own_words_factor(copied, limit=0.6) for copied in (0, 0.6, 0.8, 1)] == pytest.approx(
        [1, 1, 0.25, 0]
    )


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        (POST, ""),
        ("your boss shouts at you every day", ""),
        ("You say your boss shouts at you every day. What would help?", "You say . What would help?"),
        ("A boss shouts, and day by day.", "A boss shouts, and day by day."),  # runs of two stay
        ("Rest.", "Rest."),
    ],
)
def test_runs_of_three_words_of_the_post_are_taken_out(answer: str, left: str) -> None:
    assert without_copied_runs(answer, POST) == left


def test_runs_of_five_chinese_characters_of_the_post_are_taken_out_and_shorter_ones_stay() -> None:
    post = "老板每天对我大喊，抑郁症很重。"
    assert without_copied_runs("老板每天对你大喊，这很难受。", post) == "，这很难受。"
    assert without_copied_runs("抑郁症需要时间。", post) == "抑郁症需要时间。"
    assert without_copied_runs(post, post) == ""


def test_persons_count_as_one_in_both_directions() -> None:
    assert without_copied_runs("I am so tired", "You are so tired") == ""
    assert without_copied_runs("she is so tired", "you are so tired") == "she is so tired"

"""Explicit wording of acute risk is found; everyday wording is not; the fixed reply says what it must."""

import pytest

from rl_empathy.data.risk import HELPLINES, SAFE_REPLY, speaks_of_risk


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("Last night I wanted to DIE.", "wanted to die"),
        ("I don’t want to live\nany more", "don't want to live"),
        ("thinking about killing myself", "killing myself"),
        ("Is self-harm normal?", "self-harm"),
        ("They would be better off without me", "better off without me"),
        ("I feel suicidal", "suicidal"),
        ("我真的不想活了", "不想活"),
        ("有时候想 死", "想死"),
        ("昨天又自残了", "自残"),
        ("觉得活着没意思", "活着没意思"),
        ("想要结束自己的生命", "结束自己的生命"),
        ("i wanna die", "wanna die"),
        ("Ｉ ｗａｎｔ ｔｏ ＤＩＥ", "want to die"),
        ("I *cut* my-self", "cut* my-self"),
        ("kill\u200bmyself", "killmyself"),
        ("thinking of suïcide", "suicide"),
        ("I slit my wrists", "slit my wrists"),
        ("I took all my pills", "took all my pills"),
        ("there is nothing left to live for", "nothing left to live for"),
        ("I hope I never wake up", "hope i never wake up"),
        ("throw myself in front of a train", "throw myself in front of"),
        ("she said she wants to kill herself", "wants to kill herself"),
        ("我想死，我完成不了我的梦想", "想死"),
        ("想結束生命", "结束生命"),
        ("活著沒意思", "活着没意思"),
        ("傷害自己", "伤害自己"),
        ("想 尋短見", "寻短见"),
        ("自 * 杀", "自杀"),
        ("想离开这个世界", "离开这个世界"),
    ],
)
def test_explicit_wording_is_found(text: str, expression: str) -> None:
    assert speaks_of_risk(text) == expression


@pytest.mark.parametrize(
    "text",
    [
        "This deadline is killing me, and the commute too.",
        "My grandmother is going to die soon and I want to be there.",
        "I cut my finger and hurt my knee.",
        "I want to live by the sea.",
        "I want to diet and plan to dye my hair.",
        "想去死海旅游",
        "我想死你了，快回来吧",
        "他也不想死啊",
        "最近累得要命，只想睡觉",
    ],
)
def test_everyday_wording_is_not_found(text: str) -> None:
    assert speaks_of_risk(text) is None


def test_negation_is_not_understood_and_a_row_too_many_is_screened() -> None:
    assert speaks_of_risk("I have never contemplated suicide.") == "suicide"


@pytest.mark.parametrize(
    ("language", "asks_about_safety", "urges_help"),
    [
        ("en", "Are you safe right now", "local emergency number"),
        ("zh", "你现在安全吗", "当地的急救或报警电话"),
    ],
)
def test_the_safe_reply_asks_urges_and_ends_with_a_whole_sentence(
    language: str, asks_about_safety: str, urges_help: str
) -> None:
    reply = SAFE_REPLY[language]

    assert asks_about_safety in reply
    assert urges_help in reply
    assert HELPLINES[language] in reply
    assert reply[-1] in ".。"

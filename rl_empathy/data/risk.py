"""A plain lexicon of acute risk, and the fixed reply to it.

Limits, on purpose and by nature: it knows explicit wording only (English and Chinese). It misses hints,
metaphors, misspellings and other languages, and it does not understand negation or who is meant ("I never
thought of suicide", "my brother's suicide" match): for screening, a row too many is better than one too few.
It is no assessment of risk, and nothing in it has been clinically validated.
"""

import re
import sys
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

_ENGLISH = r"""
    suicid\w* | unalive\w*
  | (?:kill|killing|killed|hang|hanging|hung|shoot|shooting|drown|drowning|starve|starving|cut|cutting|hurt|hurting
      |harm|harming|burn|burning|overdose|overdosing)\ (?:on\ )?my\ ?self
  | (?:slit|slitting|slash|slashing|cut|cutting)\ my\ (?:own\ )?wrists?
  | self\ ?(?:harm|injur|mutilat)\w* | overdos(?:e|ed|ing)
  | (?:end|ending|ended|take|taking|took)\ my\ (?:own\ )?life | end(?:ing)?\ it\ all
  | (?:(?:want|wanted|wanting|wants|ready|plan|planning)\ to|wanna|rather)\ (?:just\ )?(?:die|be\ dead)
  | like\ dying
  | (?:wish|wished)\ (?:that\ )?i\ (?:was|were)\ (?:dead|never\ born)
  | wish\ i\ (?:could|would)\ (?:just\ )?die | better\ off\ (?:dead|without\ me)
  | (?:do\ not|don'?t|didn'?t|did\ not|no\ longer)\ (?:even\ |really\ )?(?:want\ to|wish\ to|wanna)
      \ (?:live|exist|be\ alive|wake\ up|be\ here)
  | (?:hope|wish|pray)\ (?:that\ )?i\ (?:do\ not|don'?t|won'?t|would\ not|wouldn'?t|never)\ wake\ up
  | (?:shouldn'?t|should\ not)\ be\ (?:here|alive)
  | (?:no|any|without\ a)\ (?:reason|point|will)\ (?:to\ live|to\ go\ on\ living|in\ living|for\ living)
  | nothing\ (?:left\ )?to\ live\ for
  | (?:can'?t|cannot|can\ not)\ go\ on\ living | tired\ of\ (?:living|being\ alive)
  | life\ (?:isn'?t|is\ not)\ worth\ living
  | jump(?:ing)?\ (?:off|from|in\ front\ of)\ (?:a|an|the)\ (?:bridge|building|roof|balcony|train|cliff)
  | throw(?:ing)?\ myself\ (?:off|under|in\ front\ of) | blow(?:ing)?\ my\ brains\ out
  | bullet\ (?:in|through)\ my\ head
  | (?:take|taking|took|swallow|swallowing|swallowed)\ (?:all|too\ many|a\ (?:whole\ )?bottle|a\ handful)
      \ (?:of\ )?(?:my\ |the\ |these\ )?(?:sleeping\ )?pills
  | (?:want|wants|wanted|going|plan|planning|urge|thought\ of|thoughts\ of)\ (?:to\ )?kill(?:ing)?
      \ (?:(?:him|her|them)(?:self|selves)?|my|someone|somebody|people)
"""
_CHINESE = r"""
    自杀|轻生|寻死|寻短见|(?<!不)想(?:去|要)?死(?!你|他|她|我|了我|党|海|磕|缠)|求死|去死(?!海)|死了算了|一死了之
  | 不如死|死了(?:就|才)好|不想(?:再)?(?:继续)?(?:活|存在)|不愿(?:再)?活|活不下去|活够了|活腻了
  | 活着(?:真|好|很|也|又|还|都)?(?:没有?|有什么|有啥)(?:什么|啥|任何)?(?:意思|意义|必要)
  | 活下去的(?:理由|动力|勇气|意义|希望|必要)
  | (?:结束|了结|放弃)(?:自己|我)?(?:的)?(?:生命|性命|人生)|结束(?:这)?一切|了结(?:了)?自己|自我了断
  | 自残|自伤|自虐|割腕|割手|划(?:自己的)?(?:手腕|手臂|胳膊)|伤害(?:我)?自己|弄死自己
  | 杀(?:了|死)?(?:我)?自己|跳楼|跳河|跳江|跳海|跳桥|跳下去|上吊|服毒|喝农药|烧炭
  | 吞(?:了)?(?:一瓶|很多|大量)?(?:安眠)?药|遗书
  | [吞吃](?:了|下)?(?:一瓶|整瓶|很多|大量)安眠药|离开(?:这个?)?(?:人世|世界)|一睡不醒|(?:再也|永远)不(?:想|要|用)?醒
  | 想(?:要)?(?:杀|弄死|砍死|捅死)(?:了|死)?(?:他|她|人|爸|妈|父|母)
"""
_BETWEEN_WORDS = r"(?:[\W_]{0,3})"
"""Between English words: a space, a hyphen, an asterisk, a mark of punctuation with its space, or nothing."""
_RISK = re.compile(
    rf"(?:(?<![^\W_])(?:{_ENGLISH.replace(chr(92) + ' ', _BETWEEN_WORDS)})(?![^\W_])|{_CHINESE})", re.VERBOSE
)
_SIMPLIFIED = str.maketrans(
    "殺輕尋見繼續願膩著還沒麼義動氣結棄這殘傷劃樓橋農藥燒遺書斷媽個離遠開黨纏",
    "杀轻寻见继续愿腻着还没么义动气结弃这残伤划楼桥农药烧遗书断妈个离远开党缠",
)
"""Those of the lexicon's characters that are written otherwise in traditional Chinese."""
_BETWEEN_HAN = re.compile(r"(?<=[\u4e00-\u9fff])[ *_.~-]+(?=[\u4e00-\u9fff])")
_INVISIBLE = re.compile("[\u200b-\u200d\u2060\ufeff\u00ad]")

HELPLINES: Mapping[str, str] = MappingProxyType(
    {
        "en": "in the US and Canada 988, in the UK and Ireland 116 123",
        "zh": "全国统一心理援助热线12356",
    }
)
"""Numbers in the safe reply. To be verified, and set for the country served, by whoever deploys it."""

SAFE_REPLY: Mapping[str, str] = MappingProxyType(
    {
        "en": (
            "Thank you for telling me this. It sounds as if you are in a great deal of pain, and I "
            "take it seriously. Are you safe right now, or are you close to hurting yourself or someone "
            "else? "
            "If there is any danger, please call your local emergency number now, or go to the nearest "
            "emergency department. You can also reach a crisis line at any hour "
            f"({HELPLINES['en']}; elsewhere, the line of your country). "
            "If you can, move away from anything you could use to do harm, and ask someone you trust "
            "to stay with you. You do not have to get through this moment alone, and talking to someone now "
            "can help."
        ),
        "zh": (
            "谢谢你愿意把这些告诉我。听得出来你正承受着很大的痛苦，我会认真对待你说的每一句话。"
            "你现在安全吗？有没有马上伤害自己或别人的打算？"
            "如果有危险，请立刻拨打当地的急救或报警电话，或者去最近的医院急诊。"
            f"你也可以随时拨打心理危机热线（{HELPLINES['zh']}；其他地区请拨打当地热线）。"
            "如果可以，请先离开可能造成伤害的物品，并请一位你信任的人来陪着你。"
            "这一刻你不必一个人扛，现在就和人说说，会有帮助的。"
        ),
    }
)
"""Fixed replies: acknowledge, ask about safety, urge contact with emergency help and a crisis line."""


def speaks_of_risk(text: str) -> str | None:
    """Give the first expression of acute risk that the text holds in so many words, or None."""
    match = _RISK.search(_plain(text))
    return match.group(0).strip() if match else None


@lru_cache(maxsize=1)
def _combining_marks() -> dict[int, None]:
    return {code: None for code in range(sys.maxunicode + 1) if unicodedata.combining(chr(code))}


def _plain(text: str) -> str:
    """Lower case, without accents and invisible marks, Chinese simplified and nothing between its characters."""
    if text.isascii():  # the same, and several times as fast
        return " ".join(text.lower().split())
    plain = unicodedata.normalize("NFKD", text).translate(_combining_marks()).casefold()
    plain = _INVISIBLE.sub("", plain).replace("’", "'").translate(_SIMPLIFIED)
    return _BETWEEN_HAN.sub("", " ".join(plain.split()))

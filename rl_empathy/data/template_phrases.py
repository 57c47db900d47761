"""What the template teacher knows of English: patterns to look for, and frames to fill."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Support = Literal["advice", "validation", "explanation", "understanding"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrases:
    """One language of the template teacher. Patterns are regular expressions; case does not count."""

    counts_words: bool
    """Sizes are words, else characters."""
    clause_size: int
    quote_size: int
    focus_size: int
    risk_size: int
    shortest_clause: int
    """Shorter clauses are not quoted when there is a choice, characters."""
    sentence_end: str
    clause_end: str
    small_words: frozenset[str]
    nothing_said: str
    conjunction: str
    feelings: Sequence[tuple[str, str]]
    """(label, pattern) each."""
    usual_feeling: str
    cause: str
    """What stands before a cause."""
    beliefs: Sequence[tuple[str, str]]
    usual_belief: str
    question: str
    support: Mapping[Support, str]
    """What a question holds that asks for it; the last kind matches everything."""
    needs: Mapping[Support, str]
    steps: Mapping[Support, str]
    focus: Sequence[str]
    """Who or what the post speaks of, the first that is found; lower case."""
    emotion_frames: Sequence[str]
    cause_frames: Sequence[str]
    asked_frames: Sequence[str]
    unasked_frames: Sequence[str]
    plan_frames: Sequence[str]
    safety_need: str
    safety_plan: str


_SMALL_WORDS = (
    "a an the and or but of to in on at for with from by my his her their our your its i he she we they "
    "it that which who when where what how is was are were be been being am have has had will would can "
    "could do does did so as if than not no just very because about into i'm i've it's "
)


def not_denied(feelings: Sequence[tuple[str, str]], denial: str) -> Sequence[tuple[str, str]]:
    """Let no pattern match right after a word of denial, given as look-behinds."""
    return tuple((label, rf"{denial}(?:{pattern})") for label, pattern in feelings)


ENGLISH = Phrases(
    counts_words=True,
    clause_size=9,
    quote_size=7,
    focus_size=3,
    risk_size=5,
    shortest_clause=14,
    sentence_end=r"(?<=[.!?])\s+|\n+",
    clause_end=r"[,.;:!?…()]+(?=\s|$)|\n+|\s[-–—]+\s|—|\s(?=(?:but|because|so that|and i|and then)\s)",
    small_words=frozenset(_SMALL_WORDS.split()),
    nothing_said="this",
    conjunction=" and ",
    feelings=not_denied(
        (
            ("ashamed", r"\basham\w+|\bshame\b"),
            ("guilty", r"\bguilt\w*|my (?:own )?fault"),
            ("anxious", r"\banxi\w+|\bworr\w+|\bpanic\w*|\bnervous"),
            ("afraid", r"\bafraid|\bscared?\b|\bscares\b|\bfear\w*|\bterrif\w+|\bdread\w*"),
            ("sad", r"\bsad\w*|\bcr(?:y|ied|ying)\b|\btears\b|\bheartbr\w+|\bunhappy|\bmiserable"),
            ("lonely", r"\blonel\w+|\bisolated|\bno friends|\bleft out|\bby myself"),
            ("angry", r"\bang(?:ry|er)\b|\bfurious|\brage\b|\bresent\w*|\bhate\b"),
            (
                "exhausted",
                r"\bexhaust\w+|\btired\b|\bworn out|\bdrained|\bburn(?:ed|t)?[ -]?out|can(?:no|')t sleep",
            ),
            ("hopeless", r"\bhopeless\w*|\bpointless|\bgiv(?:e|en|ing) up"),
            ("worthless", r"\bworthless\w*|not good enough|\buseless|\bfailure\b|\bloser"),
            ("torn", r"\bconfus\w+|\btorn\b|\bstuck\b|\bdon'?t know what to do|\bundecided"),
            ("humiliated", r"\bembarrass\w+|\bhumiliat\w+|\blaughed at|\bfool(?:ish)?\b"),
            ("jealous", r"\bjealous\w*|\benv(?:y|ious)"),
            ("hurt", r"\bhurt\w*|\bbetray\w+|\breject\w+|\bcheat\w+|\bl(?:ied|ying) to me"),
            ("overwhelmed", r"\boverwhelm\w+|\bstress\w*|\bpressure|\btoo much\b|\bcan'?t cope"),
            ("low", r"\bdepress\w+|\bnumb\b|\bempty\b|\bno energy"),
            (
                "grieving",
                r"\bgriev\w+|\bgrief|\bmiss (?:him|her|them)\b|\bdied\b|\bfuneral|\bpassed away|\bmourn\w*",
            ),
            ("frustrated", r"\bfrustrat\w+|\bfed up|\bannoy\w*"),
            ("insecure", r"\binsecur\w+|\bself[- ](?:esteem|conscious)|\bdoubt\w*"),
        ),
        r"(?<!not )(?<!never )(?<!n't )",
    ),
    usual_feeling="unsettled",
    cause=r"\b(?:because|ever since|since|after|due to|the problem is|it all started when|ever after)\b",
    beliefs=(
        ("it is all my own fault", r"my (?:own )?fault|blame myself|\bguilt\w*|because of me"),
        ("I am not good enough", r"good enough|\bworthless|\bfailure|\bloser|\buseless|\bstupid|\bugly"),
        (
            "others think badly of me",
            r"\bjudg\w+|think(?:s)? (?:that )?i(?:'m| am)|\bweird\b|laugh(?:ed|ing)? at|everyone",
        ),
        ("nothing will ever change", r"\bnever\b|\bhopeless|no way out|\bpointless|\bforever"),
        ("I should manage this better", r"\bi should|\bsupposed to|\bought to|\bhave to be|\bmust\b"),
        ("people cannot be trusted again", r"\btrust\b|\bcheat\w+|\blied\b|\bbetray\w+"),
        ("I have to carry this alone", r"\balone\b|\bno ?one\b|\bnobody|\bcan'?t tell"),
    ),
    usual_belief="I ought to have an answer",
    question=r"\?\s*$",
    support={
        "advice": (
            r"\bhow (?:do|can|could|should|would|does|to)\b|\bwhat (?:should|can|do|could|would)\b"
            r"|\bshould i\b|\bhelp\b"
        ),
        "validation": (
            r"\b(?:am|was) i\b|\b(?:is|does) (?:it|this|that)\b|\bis there\b|\bnormal\b|\bwrong\b"
        ),
        "explanation": r"\bwhy\b|\bwhat (?:is|does|could be)\b|\bcause",
        "understanding": r"",
    },
    needs={
        "advice": "a concrete next step",
        "validation": "reassurance that the feeling makes sense",
        "explanation": "help in making sense of it",
        "understanding": "being heard before anything is solved",
    },
    steps={
        "advice": "offer one small step and ask what feels possible",
        "validation": "say why it makes sense and soften the harsh belief",
        "explanation": "sort out together what may lie behind it",
        "understanding": "stay with it and ask one gentle open question",
    },
    focus=(
        r"\bmy (?:mother|father|mom|mum|dad|parents|wife|husband|partner|boyfriend|girlfriend|fianc\w+|ex|son"
        r"|daughter|child|children|kids?|baby|brother|sister|twin|family|grand\w+|aunt|uncle|friends?"
        r"|best friend|boss|manager|supervisor|colleagues?|coworkers?|job|work|school|degree|exams?|thesis"
        r"|marriage|relationship|dog|cat|therapist|roommates?|flatmates?|neighbou?rs?|home|house|past|future)\b",
        r"\b(?!because|through|someone|without|another|thought|feeling|something|nothing|anything|everything"
        r"|everyone|usually|actually|already|sometimes|together|whether|against|between|started|wanted)"
        r"[a-z]{7,20}\b",
    ),
    emotion_frames=(
        "Feels {feeling} in a situation told as “{situation}”.",
        "The feeling is mostly {feeling}, and around it stands “{situation}”.",
        "Comes across as {feeling}; in their own words, “{situation}”.",
        "Sounds {feeling}, with this in the foreground: “{situation}”.",
    ),
    cause_frames=(
        "It seems to come from “{cause}”, beneath it the belief: {belief}.",
        "What weighs most is “{cause}”; a likely belief is that {belief}.",
        "Behind it stands “{cause}”, perhaps read as proof that {belief}.",
        "The cause given is “{cause}”, and the thought may be: {belief}.",
    ),
    asked_frames=(
        "Asks “{quote}”, so the wish is probably for {need}.",
        "The question “{quote}” mainly seems to seek {need}.",
        "By asking “{quote}” they look above all for {need}.",
    ),
    unasked_frames=(
        "Nothing is asked outright; “{quote}” points to a wish for {need}.",
        "Ends on “{quote}”, no direct question, so wants mainly {need}.",
        "No question is put; closing with “{quote}”, they may need {need}.",
    ),
    plan_frames=(
        "First name the {feeling} feeling about “{focus}”, then {step}.",
        "Reflect how {feeling} “{focus}” leaves them, then {step}.",
        "Begin with feeling {feeling}, take “{focus}” seriously, and {step}.",
    ),
    safety_need="Speaks of danger with “{risk}”; safety and people nearby come before every other need.",
    safety_plan="Acknowledge the pain in “{risk}”, ask directly about safety, urge emergency contact now.",
)

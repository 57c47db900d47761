"""Warm sentences that fit every post, questions thrown back, and ways to begin a sentence of the post again.

Our own writing. Each list has two parts that share no sentence: TRAINING makes negatives, PROBES makes the table of
what echoes earn. The table then says what the reward model does with words that it has not seen.
"""

from dataclasses import dataclass
from typing import Literal

Language = Literal["en", "zh"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrases:
    """The phrases of one language for one use."""

    warmth: tuple[str, ...]
    """Sentences that comfort anybody, whatever was written."""
    questions: tuple[str, ...]
    """Questions that give the post back; {words} stands for some of its words."""
    restatements: tuple[str, ...]
    """What goes before a sentence of the post, with {sentence} for it."""


TRAINING: dict[Language, Phrases] = {
    "en": Phrases(
        warmth=(
            "I am so sorry that you are going through this.",
            "That sounds really hard.",
            "You are not alone, and I am here for you.",
            "Thank you for sharing this with me.",
            "It takes courage to talk about such things.",
            "Your feelings are completely valid.",
            "Please be gentle with yourself.",
            "I hear you, and I see how much this hurts.",
            "Things will get better with time.",
            "You deserve love, kindness and support.",
            "I believe in you.",
            "Many people go through something like this.",
            "Take a deep breath; one step at a time is enough.",
            "It is okay not to be okay.",
            "You are stronger than you think.",
            "Whatever happens, remember that you matter.",
            "I can only imagine how difficult this must be for you.",
            "Reaching out for help is a sign of strength.",
            "I wish you all the best on your journey.",
            "Everything you feel makes sense.",
            "Hold on, brighter days will come.",
            "I am glad that you wrote.",
            "It is understandable that you feel overwhelmed.",
            "Talking to a therapist can help you to sort out your feelings.",
            "Be patient with yourself; healing takes time.",
            "You have every right to feel the way you do.",
            "Sending you warmth and strength.",
            "No one should have to carry such a burden alone.",
            "There is always hope, even when it is hard to see.",
            "What you are facing is painful, and you are doing your best.",
            "Try to do something kind for yourself today.",
            "I appreciate your honesty and your trust.",
        ),
        questions=(
            "What do you think about {words}?",
            "Why do you feel this way?",
            "How does {words} make you feel?",
            "What would you like to do about {words}?",
            "Have you asked yourself why?",
            "Can you tell me more about {words}?",
            "What do you think you should do?",
            "When did {words} begin?",
            "What does {words} mean to you?",
            "How long have you felt like this?",
            "Is it really about {words}?",
            "What is your own answer to this question?",
            "And how do you see it yourself?",
            "What comes to your mind when you think of {words}?",
        ),
        restatements=(
            "You say that {sentence}",
            "So {sentence}",
            "I hear that {sentence}",
            "It sounds as if {sentence}",
            "You feel that {sentence}",
            "You are telling me: {sentence}",
            "I understand, {sentence}",
            "{sentence}",
        ),
    ),
    "zh": Phrases(
        warmth=(
            "我很理解你现在的心情。",
            "你一定很不容易。",
            "抱抱你，你不是一个人。",
            "谢谢你愿意把这些告诉我。",
            "你的感受是完全可以理解的。",
            "一切都会慢慢好起来的。",
            "请好好照顾自己。",
            "我会一直在这里陪着你。",
            "你已经做得很好了。",
            "说出来需要很大的勇气。",
            "相信自己，你比想象中更坚强。",
            "给自己一点时间，慢慢来。",
            "很多人都有过类似的经历。",
            "希望你能早日走出来。",
            "无论发生什么，你都值得被爱。",
            "听到这些，我感到很心疼。",
            "你可以试着对自己温柔一点。",
            "难过的时候，哭出来也没关系。",
            "加油，未来会更好的。",
            "你的情绪需要被看见，也需要被接纳。",
            "如果有需要，可以寻求专业心理咨询师的帮助。",
            "深呼吸，放松一下自己。",
            "我能感受到你的痛苦和无助。",
            "祝你一切顺利。",
            "不要太责怪自己，这不是你的错。",
            "每个人都会有低落的时候。",
            "世界和我爱着你。",
            "你愿意求助，这本身就是改变的开始。",
        ),
        questions=(
            "关于{words}，你是怎么想的呢？",
            "你为什么会有这样的感觉呢？",
            "{words}让你有什么感受？",
            "你想怎么处理{words}呢？",
            "能多说一说{words}吗？",
            "你觉得自己应该怎么办呢？",
            "这种情况是从什么时候开始的？",
            "{words}对你来说意味着什么？",
            "你有没有问过自己为什么？",
            "你自己的答案是什么？",
            "真的是因为{words}吗？",
            "想到{words}，你脑海里会出现什么？",
        ),
        restatements=(
            "你说{sentence}",
            "我听到你说，{sentence}",
            "你觉得{sentence}",
            "看来{sentence}",
            "我明白，{sentence}",
            "也就是说，{sentence}",
            "{sentence}",
        ),
    ),
}

PROBES: dict[Language, Phrases] = {
    "en": Phrases(
        warmth=(
            "My heart goes out to you, and I want you to know that somebody is listening.",
            "It is brave of you to open up about what is on your mind.",
            "Nobody could go through all that without pain.",
            "You are doing so well, even if it may not seem so.",
            "Whatever you need right now, allow yourself to have it.",
            "There are people who care for you deeply.",
            "This pain will not last for ever.",
            "Give yourself credit for getting this far.",
            "I truly feel for you in these difficult times.",
            "Stay strong and trust the process.",
        ),
        questions=(
            "What is it about {words} that troubles you most?",
            "Where do you believe all this comes from?",
            "If a friend told you of {words}, what would you say?",
            "And what are your thoughts on {words}?",
            "Could it be that you know the solution already?",
            "What would have to change with {words}?",
        ),
        restatements=(
            "From what you write, {sentence}",
            "If I get it right, {sentence}",
            "You mention that {sentence}",
            "As you put it, {sentence}",
        ),
    ),
    "zh": Phrases(
        warmth=(
            "看到你的文字，我真的很想给你一个温暖的拥抱。",
            "这段日子你辛苦了，你值得被好好对待。",
            "无论如何，总会有人关心你、支持你。",
            "请相信，黑夜过去就是黎明。",
            "你的坚持让人敬佩。",
            "把心里的话讲出来，就是一个很棒的开始。",
            "允许自己脆弱一会儿吧。",
            "愿你被这个世界温柔以待。",
        ),
        questions=(
            "{words}里面最困扰你的是什么？",
            "你认为这一切的原因在哪里呢？",
            "假如朋友遇到{words}，你会对他说什么？",
            "对于{words}，你心里有答案了吗？",
            "你希望{words}发生怎样的改变？",
        ),
        restatements=(
            "从你的描述来看，{sentence}",
            "如果我没理解错，{sentence}",
            "你提到{sentence}",
            "正如你所讲，{sentence}",
        ),
    ),
}

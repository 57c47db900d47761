"""Words that say nothing of a post's subject: function words, and what every counselling text says."""

_ENGLISH = """
about above after again against all almost also although always and another any anybody anyone anything are
aren because been before being below between both but can cannot could couldn did didn does doesn doing don
done down during each either else enough even ever every everybody everyone everything feel feeling feelings
feels felt few for from further get gets getting give given gives giving goes going gone got had hadn has
hasn have haven having help her here hers herself him himself his how however into isn its itself just keep
keeps know knows let like lot made make makes making many may maybe might mine more most much must myself
need needs neither never nobody none nor not nothing now off often once one ones only onto other others our
ours ourselves out over own perhaps person quite rather really same say saying says see seem seems shall she
should shouldn since situation some somebody someone something sometimes soon still such take takes taking
tell than that the their theirs them themselves then there these they thing things think this those though
through thus too toward towards under until upon use used user very want wants was wasn way well were weren
what when where whether which while who whole whom whose why will with within without won would wouldn yes
yet you your yours yourself yourselves
"""

_CHINESE = """
一下 一个 一些 一样 一直 一种 不会 不是 不能 不要 不过 与其 为了 为什么 之前 之后 也许 事情 于是
什么 什么时候 什么样 他们 以前 以及 以后 但是 你们 使得 例如 依然 倾诉者 其中 其他 其实 几个 出来
别人 到底 即使 却是 又是 只是 只有 可以 可是 可能 各种 同时 后来 哪些 哪里 因为 因此 大家 她们 如何
如果 如此 它们 对于 对方 将会 尤其 就是 已经 希望 帮助 并且 应该 开始 当时 很多 怎么 怎么办 怎么样
怎样 总是 情况 感到 感受 感觉 我们 或者 所以 所有 才能 无法 时候 是不是 是否 曾经 有些 有时 有点
有的 来说 某些 此外 每个 每次 比如 比较 求助者 没有 然后 然而 现在 甚至 用户 由于 的话 真的 知道
而且 能够 自己 自身 至少 虽然 觉得 认为 许多 起来 越来越 还是 还有 这个 这么 这些 这是 这样 这种
这里 通过 那个 那么 那些 那样 那种 那里 都是 问题 除了 非常
"""

ENGLISH_STOP_WORDS = frozenset(_ENGLISH.split())
"""Three letters or more: shorter words never count. Contractions as the tokenizer leaves them: "didn"."""

CHINESE_STOP_WORDS = frozenset(_CHINESE.split())
"""Two characters or more: words of one character never count, and most function words have one."""

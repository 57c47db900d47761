"""HTML is read as the reader of a page sees it; what a person typed stays."""

import html

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_empathy.data.text import cleaned

PAGES = {
    "paragraphs that are not closed": ("<p>One.<p>Two.<p>Three.", "One.\n\nTwo.\n\nThree."),
    "paragraphs that are": ("<p>One.</p>\n<p>Two.</p>", "One.\n\nTwo."),
    "line breaks": ("One<br>two<BR/>three<br />\nfour<br><br>five</br>six", "One\ntwo\nthree\nfour\n\nfive\nsix"),
    "lines of the source": ("<p>One\nline.</p>", "One line."),
    "typed paragraphs": ("One.\n\nTwo <b>bold</b>\nlines.", "One.\n\nTwo bold\nlines."),
    "blocks": ("<div>One</div><div>two<br></div><div>three</div>", "One\ntwo\nthree"),
    "lists": ("Try:<ul><li>one</li>\n<li>two</ul>Good luck.", "Try:\n\none\ntwo\n\nGood luck."),
    "tables": (
        "My week: <table><tr><td>sad</td><td>angry</td></tr><tr><td>calm</table> it is.",
        "My week:\n\nsad angry\ncalm\n\nit is.",
    ),
    "scripts and styles": ("<style>p {}</style><p>One<script>if (a<b) '<p>'</script></p>", "One"),
    "a script that is a word": ("I wrote a <script> for him.", "I wrote a <script> for him."),
    "comments": ("One<!-- a <b>note</b> --> two", "One two"),
    "attributes": ("<a href=\"http://x.org/?a=1&b=2\" class='c'>here</a> <td nowrap>x", "here x"),
    "a sign in an attribute": ("<a title='more > less' href=\"x\">here</a> and there", "here and there"),
    "elements that nobody sees": (
        "<p>One <input type=\"text\" value=\"no\">two <wbr><map name=m><area href=x></map>three <link rel=x></p>",
        "One two three",
    ),
    "a link that was typed": ("See <link> and <data>.", "See <link> and <data>."),
    "what Word leaves": ("One<o:p></o:p> two", "One two"),
    "entities": ("You &amp; me&nbsp;&#8217;&#x2019; &eacute; &lt;3 &amp;lt;", "You & me ’’ é <3 &lt;"),
    "no entities": ("AT&T, R&D; a=1&copy=2 &#" + "1" * 5000 + ";", "AT&T, R&D; a=1&copy=2 &#" + "1" * 5000 + ";"),
    "tags that were escaped": ("That hurts.&lt;br&gt;Tell me.&lt;/p&gt;", "That hurts.\nTell me."),
    "a tag that was typed": ("They wrote &lt;answer&gt; in the form.", "They wrote <answer> in the form."),
    "words in angle brackets": (
        "<name> keeps my <i feel nothing> moods at <address> on <time>, <b or c>",
        "<name> keeps my <i feel nothing> moods at <address> on <time>, <b or c>",
    ),
    "words in a page": ("<p>&lt;name&gt; lives at &lt;address&gt;</p>", "<name> lives at <address>"),
    "elements that are words": ("Call <address>12 Hill Road</address> <b>now</b>", "Call\n12 Hill Road\nnow"),
    "hearts and signs": ("I <3 you, </3 me: a < b > c, <- ->, <!>", "I <3 you, </3 me: a < b > c, <- ->, <!>"),
    "an end in the middle of a tag": ("I <love you", "I <love you"),
    "joined emoji": ("My family 👨‍👩‍👧 and 🧘🏽‍♀️\u200b.", "My family 👨‍👩‍👧 and 🧘🏽‍♀️."),
    "joined letters": ("می‌خواهم", "می‌خواهم"),
}  # fmt: skip


@pytest.mark.parametrize(("page", "seen"), PAGES.values(), ids=PAGES)
def test_a_page_is_read_as_its_reader_sees_it(page: str, seen: str) -> None:
    assert cleaned(page) == seen
    assert cleaned(cleaned(page)) == cleaned(seen)


WORDS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u200b\u2060\ufeff\u00ad\u00a0\u3000")
)
TYPED = st.lists(
    WORDS
    | st.sampled_from(
        ["<3", "</3", "<", ">", "&", "<!", "<?", "<!--", "a<b", "<name>", "</name>", "<i am>", "< p >"]
    )
).map(" ".join)


@given(TYPED)
def test_text_without_tags_and_entities_keeps_everything_but_white_space(text: str) -> None:
    text = text.replace(";", "").replace("-->", "")  # no entity, no comment
    assert "".join(cleaned(text).split()) == "".join(text.split())


@given(TYPED)
def test_what_a_page_escapes_is_read_as_it_was_typed(text: str) -> None:
    text = text.replace(";", "")
    shown = cleaned(f"<p>{html.escape(text, quote=True)}</p>")

    assert "".join(shown.split()) == "".join(text.split())


@given(st.text(alphabet="<>/ab p!-&;#lt=\"'\n", max_size=60))
def test_no_text_makes_the_cleaning_fail(text: str) -> None:
    assert isinstance(cleaned(text), str)

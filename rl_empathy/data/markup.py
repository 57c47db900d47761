"""HTML as the reader of a page sees it; what a person typed between angle brackets stays.

Posts and replies are fragments of HTML, or no HTML at all. So the first question is which "<" begins a tag. A
tag has the name of an HTML element and attributes with values (`<i feel nothing>` has none). Many names are words
too (`<address>`, `<time>`, `<b>`): these are tags where the text is HTML without doubt, or where both the start
and the end tag are there. All other "<", as in `<3`, `</3`, `a < b` and `<name>`, are text. Tags that were
escaped (`&lt;br&gt;`) count, too: a site escaped its own HTML. `&lt;answer&gt;` is no tag of HTML: it is text.

Then Python's HTML parser reads the fragment, and lines are set as a browser's `innerText` sets them.
"""

import html
import re
from html.parser import HTMLParser

_PARAGRAPHS = frozenset(
    {"p", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "ul", "ol", "dl", "table", "pre"}
)
_BLOCKS = frozenset(
    [
        "address",
        "article",
        "aside",
        "caption",
        "center",
        "dd",
        "details",
        "dialog",
        "div",
        "dt",
        "fieldset",
        "figcaption",
        "figure",
        "footer",
        "form",
        "header",
        "hr",
        "legend",
        "li",
        "main",
        "menu",
        "nav",
        "option",
        "section",
        "summary",
        "tbody",
        "tfoot",
        "thead",
        "tr",
    ]
)
_CELLS = frozenset({"td", "th"})
_LINES = _PARAGRAPHS | _BLOCKS | {"br"}
_BREAKS = re.compile(r"[ \t\n\v]*[\n\v][ \t\n\v]*")
_HIDDEN = frozenset(
    [
        "audio",
        "datalist",
        "head",
        "iframe",
        "noscript",
        "object",
        "script",
        "select",
        "style",
        "svg",
        "template",
        "title",
        "video",
    ]
)
_NO_WORDS = [
    "br",
    "hr",
    "p",
    "div",
    "span",
    "ul",
    "ol",
    "li",
    "dl",
    "dt",
    "dd",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "table",
    "thead",
    "tbody",
    "tfoot",
    "tr",
    "td",
    "th",
    "blockquote",
    "em",
    "img",
    "font",
    "tt",
    "wbr",
    "nobr",
    "pre",
    "html",
]
"""Elements whose names nobody types in angle brackets but as tags."""
_WORDS = [
    "a", "abbr", "acronym", "address", "applet", "area", "article", "aside", "audio", "b", "base", "basefont",
    "bdi", "bdo", "big", "blink", "body", "button", "canvas", "caption", "center", "cite", "code", "col",
    "colgroup", "data", "datalist", "del", "details", "dfn", "dialog", "dir", "embed", "fieldset",
    "figcaption", "figure", "footer", "form", "frame", "frameset", "head", "header", "hgroup", "i", "iframe",
    "input", "ins", "kbd", "label", "legend", "link", "main", "map", "mark", "marquee", "math", "menu",
    "meta", "meter", "nav", "noframes", "noscript", "object", "optgroup", "option", "output", "param",
    "picture", "progress", "q", "rp", "rt", "ruby", "s", "samp", "script", "section", "select", "slot",
    "small", "source", "strike", "strong", "style", "sub", "summary", "sup", "svg", "template", "textarea",
    "time", "title", "track", "u", "var", "video",
]  # fmt: skip
_ATTRIBUTE = (
    r"""(?:\s+(?:[a-z][\w:.-]*\s*=\s*(?:"[^"<]*"|'[^'<]*'|[^\s"'<>]+)"""
    r"""|(?:nowrap|noshade|hidden|compact|disabled|checked|selected|controls|allowfullscreen)(?=[\s/>&])))"""
)
_NAME = rf"(?P<name>{'|'.join(sorted(_NO_WORDS + _WORDS, key=len, reverse=True))}|(?:o|v|w|m|st1):\w+)"
_TAG = re.compile(
    rf"(?P<open><|&lt;)(?P<end>/?){_NAME}{_ATTRIBUTE}*\s*/?(?:>|&gt;)|<!--.*?-->|<!doctype\b[^<>]*>",
    re.IGNORECASE | re.DOTALL,
)
_REFERENCE = re.compile(r"&(?!(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,31});)", re.IGNORECASE)
"""An "&" that begins no reference: `AT&T`, `a=1&copy=2`."""


def plain_text(text: str) -> str:
    """The text of a fragment of HTML as a page shows it; text that is no HTML comes back unchanged."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    tags = _tags(text)
    if not tags:
        return html.unescape(_REFERENCE.sub("&amp;", text))
    page = _Page(has_lines=any((tag["name"] or "").lower() in _LINES for tag in tags))
    position = 0
    for tag in tags:
        page.feed(_escaped(text[position : tag.start()]))
        page.feed(tag.group().replace("&lt;", "<").replace("&gt;", ">"))
        position = tag.end()
    page.feed(_escaped(text[position:]))
    page.close()
    return _BREAKS.sub(lambda run: "\n\n" if run.group().count("\n") > 1 else "\n", "".join(page.parts))


def _tags(text: str) -> list[re.Match[str]]:
    """The tags and comments of a text, without words in angle brackets."""
    found = list(_TAG.finditer(text))
    is_html = any(tag["open"] == "<" and tag["name"].lower() in _NO_WORDS for tag in found)
    first_start: dict[str, int] = {}
    last_end: dict[str, int] = {}
    for tag in found:
        if tag["name"] and tag["end"]:
            last_end[tag["name"].lower()] = tag.start()
        elif tag["name"]:
            first_start.setdefault(tag["name"].lower(), tag.start())

    def is_tag(tag: re.Match[str]) -> bool:
        name = (tag["name"] or "br").lower()
        if name in _HIDDEN or (name in _WORDS and not (is_html and tag["open"] == "<")):
            here = tag.start()
            return first_start.get(name, here) < here if tag["end"] else last_end.get(name, here) > here
        return True

    return [tag for tag in found if is_tag(tag)]


def _escaped(text: str) -> str:
    return _REFERENCE.sub("&amp;", text).replace("<", "&lt;")


class _Page(HTMLParser):
    """Collects what is seen: paragraphs with an empty line between, cells with a space, nothing hidden."""

    def __init__(self, *, has_lines: bool) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._has_lines = has_lines
        self._hidden = ""
        self._pre = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._break(tag)
        self._pre |= tag == "pre"
        if tag in _HIDDEN:
            self._hidden = self._hidden or tag

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.handle_starttag(tag, attrs)  # the slash of `<br/>` says nothing in HTML

    def handle_endtag(self, tag: str) -> None:
        self._break(tag)
        self._pre &= tag != "pre"
        if tag == self._hidden:
            self._hidden = ""

    def handle_data(self, data: str) -> None:
        if self._hidden:
            return
        if self._has_lines and not self._pre:
            # A page shows the end of a line in its source as a space; an empty line was typed as a paragraph.
            data = re.sub(r"(?<!\n)\n(?!\n)", " ", data)
        self.parts.append(data)

    def _break(self, tag: str) -> None:
        if self._hidden:
            return
        if tag == "br":
            self.parts.append("\n")
        elif tag in _PARAGRAPHS:
            self.parts.append("\n\n")
        elif tag in _BLOCKS:
            self.parts.append("\v")
        elif tag in _CELLS:
            self.parts.append("\t")

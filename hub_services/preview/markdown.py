"""Descriptions: Markdown to the few elements of HTML that a description needs.

Two nets, one behind the other: the renderer takes no HTML of the writer's over, and what it makes
is cleaned by an allow-list once more. Pictures are left out: they would tell a stranger's server
who looked.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from functools import lru_cache

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererProtocol
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

LONGEST = 20_000
"""Characters of a description."""
MOST_NESTED = 20

TAGS = {
    *("p", "br", "hr", "h3", "h4", "h5", "h6", "strong", "em", "s", "code", "pre", "blockquote"),
    *("ul", "ol", "li", "a", "table", "thead", "tbody", "tr", "th", "td"),
}
ATTRIBUTES = {"a": {"href", "title"}, "ol": {"start"}}
SCHEMES = {"http", "https", "mailto"}
FIRST_HEADING = 3
"""The page has its own first two levels."""


def _renderer() -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": False, "maxNesting": MOST_NESTED})
    made.enable(["table", "strikethrough"])
    made.add_render_rule("image", _alternative)
    return made


def _alternative(
    renderer: RendererProtocol,
    tokens: Sequence[Token],
    index: int,
    options: OptionsDict,
    env: EnvType,
) -> str:
    """What a picture's writer says of it."""
    return html.escape(tokens[index].content)


@lru_cache(512)
def rendered(text: str) -> str:
    """Safe HTML of a description."""
    made = _renderer()
    tokens = made.parse(text[:LONGEST])
    _set_headings(tokens)
    return nh3.clean(
        made.renderer.render(tokens, made.options, {}),
        tags=TAGS,
        attributes=ATTRIBUTES,
        url_schemes=SCHEMES,
        link_rel="nofollow noopener noreferrer ugc",
        strip_comments=True,
    )


def _set_headings(tokens: Sequence[Token]) -> None:
    """Levels that follow on those of the page and leave none out."""
    outline: list[int] = []
    for token in tokens:
        if token.type == "heading_open":
            level = int(token.tag[1:])
            outline = [above for above in outline if above < level] + [level]
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, FIRST_HEADING + len(outline) - 1)}"


def first_words(text: str, most: int = 160) -> str:
    """The beginning as plain words, for a list."""
    # Of a long one only the beginning is looked at: a list has many.
    plain = html.unescape(" ".join(nh3.clean(rendered(text[: 3 * most]), tags=set()).split()))
    return plain if len(plain) <= most else plain[: most - 1].rstrip() + "…"

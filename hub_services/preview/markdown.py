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

_HEADINGS = {f"h{level}": f"h{min(6, level + 2)}" for level in range(1, 7)}
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
    for token in tokens:
        token.tag = _HEADINGS.get(token.tag, token.tag)
    return nh3.clean(
        made.renderer.render(tokens, made.options, {}),
        tags=TAGS,
        attributes=ATTRIBUTES,
        url_schemes=SCHEMES,
        link_rel="nofollow noopener noreferrer ugc",
        strip_comments=True,
    )


def first_words(text: str, most: int = 160) -> str:
    """The beginning as plain words, for a list."""
    plain = html.unescape(" ".join(nh3.clean(rendered(text), tags=set()).split()))
    return plain if len(plain) <= most else plain[: most - 1].rstrip() + "…"

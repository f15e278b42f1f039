"""Markdown and templates as HTML, everything in them escaped."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

LEVEL = 1
"""By which headings of a Markdown table go down: a section of the page has a heading already."""


@functools.cache
def environment() -> jinja2.Environment:
    """Templates of this folder; what they are given is text unless it is `Markup`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bench.report.page", "assets"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["inline"] = inline
    return environment


def asset(name: str) -> str:
    """A file of this folder."""
    return (resources.files("bench.report.page") / "assets" / name).read_text("utf-8")


@functools.cache
def _reader() -> MarkdownIt:
    """Without HTML of its own: a tag in Markdown is shown, not obeyed."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    reader.add_render_rule("table_open", _table_open)
    reader.add_render_rule("table_close", _table_close)
    return reader


def _table_open(*_: Any) -> str:
    """On a narrow screen a table moves by itself, also by keyboard."""
    return '<div class="scroll" tabindex="0" role="group" aria-label="Table"><table>\n'


def _table_close(*_: Any) -> str:
    return "</table></div>\n"


def markdown(text: str) -> Markup:
    """A Markdown table with its notes, without its title."""
    tokens = _reader().parse(text)
    if tokens and tokens[0].tag == "h1":
        tokens = tokens[3:]
    for token in tokens:
        if token.type.startswith("heading_"):
            token.tag = f"h{min(6, int(token.tag[1:]) + LEVEL)}"
    return _rendered(tokens)


def inline(text: str) -> Markup:
    """One line of Markdown: what tables have in a cell."""
    return _rendered(_reader().parseInline(text))


def _rendered(tokens: Sequence[Token]) -> Markup:
    reader = _reader()
    html = reader.renderer.render(tokens, reader.options, {})
    return Markup(html)  # noqa: S704 - the reader escapes what it is given

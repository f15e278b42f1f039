"""Advice as text for a terminal, as Markdown, and as HTML for a notebook."""

from __future__ import annotations

import html as escaping
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.advise.words import Page, Section
from bench.report import display

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 100
KEPT_WHOLE = 14
"""Characters of a column that is never broken into lines."""


def text(page: Page, width: int = WIDTH) -> str:
    """Plain text in lines of at most ``width`` characters."""
    from rich.console import Console  # noqa: PLC0415 - Markdown and HTML do without

    file = io.StringIO()
    show(page, Console(file=file, width=width, no_color=True, highlight=False))
    return file.getvalue().rstrip("\n")


def show(page: Page, console: Console) -> None:
    """In a terminal."""
    console.print(page.heading, style="bold", markup=False, highlight=False, emoji=False)
    for section in page.sections:
        console.print()
        console.print(section.title, style="bold", markup=False, highlight=False, emoji=False)
        for sentence in section.sentences:
            console.print(sentence, markup=False, highlight=False, emoji=False)
        if section.rows:
            console.print(_rich_table(section))
        if section.code:  # to be pasted: never broken into lines
            console.print(section.code, markup=False, highlight=False, emoji=False, soft_wrap=True)


def _rich_table(section: Section) -> object:
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="bold")
    for place, name in enumerate(section.header):
        longest = max(len(row[place]) for row in section.rows)
        table.add_column(Text(name), overflow="fold", no_wrap=longest <= KEPT_WHOLE)
    for row in section.rows:
        table.add_row(*map(Text, row))
    return table


def markdown(page: Page) -> str:
    """Headings, sentences, tables, and code."""
    parts = [f"# {display.cell(page.heading)}"]
    for section in page.sections:
        parts.append(f"## {section.title}")
        parts += [display.cell(sentence) for sentence in section.sentences]
        if section.rows:
            rows = [list(map(display.cell, row)) for row in section.rows]
            parts.append(display.table(section.header, rows).rstrip("\n"))
        if section.code:
            parts.append(f"```python\n{section.code}\n```")
    return "\n\n".join(parts) + "\n"


def html(page: Page) -> str:
    """The same for a notebook; nothing that a name holds is markup."""
    parts = [f"<h3>{escaping.escape(page.heading)}</h3>"]
    for section in page.sections:
        parts.append(f"<h4>{escaping.escape(section.title)}</h4>")
        parts += [f"<p>{escaping.escape(sentence)}</p>" for sentence in section.sentences]
        if section.rows:
            parts.append(_html_table(section))
        if section.code:
            parts.append(f"<pre><code>{escaping.escape(section.code)}</code></pre>")
    return f"<div>{''.join(parts)}</div>"


def _html_table(section: Section) -> str:
    head = _html_row(section.header, "th")
    body = "".join(_html_row(row, "td") for row in section.rows)
    return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"


def _html_row(cells: Sequence[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{escaping.escape(cell)}</{tag}>' for cell in cells)}</tr>"

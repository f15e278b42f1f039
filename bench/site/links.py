"""Links between files of the repository, as links between pages of the site."""

from __future__ import annotations

import posixpath
import re

from bench.site.pages import DOCS, INDEX, README

_FOREIGN = re.compile(
    r"<(?:script|img|iframe)\b[^>]*\bsrc=\"?https?:[^>]*>"
    r"|<link\b(?![^>]*\brel=\"?(?:canonical|next|prev))[^>]*\bhref=\"?https?:[^>]*>"
)
_LINK = re.compile(r"(!?\[[^\]\n]*\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")


def file_of(page: str) -> str:
    """The file of the repository that a page of the site shows."""
    if page == INDEX:
        return str(README)
    return page if page.startswith("results/") else f"{DOCS}/{page}"


def page_of(file: str) -> str:
    """The page of the site that shows a file of the repository."""
    return INDEX if file == str(README) else file.removeprefix(f"{DOCS}/")


def moved(text: str, page: str) -> str:
    """Markdown whose relative links lead to pages instead of files.

    Args:
        text: as it stands in the repository.
        page: the path of its page in the site.
    """
    folder = posixpath.dirname(file_of(page))

    def replaced(match: re.Match[str]) -> str:
        begin, link, end = match.groups()
        target = page_of(posixpath.normpath(posixpath.join(folder, link)))
        return f"{begin}{posixpath.relpath(target, posixpath.dirname(page) or '.')}{end}"

    return _LINK.sub(replaced, text)


def foreign(html: str) -> list[str]:
    """What a page would load from elsewhere: scripts, pictures, frames, styles and fonts."""
    return _FOREIGN.findall(html)

"""Docstrings as Markdown: prose, attributes, and the papers that they name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping

_ATTRIBUTES = re.compile(r"^Attributes:\n((?:[ \t]+\S.*\n?|\n)+)", re.MULTILINE)
_ATTRIBUTE = re.compile(r"^(\w+): (.*(?:\n[ \t]+\S.*)*)", re.MULTILINE)
_ARXIV = re.compile(r"(?:arXiv )?\b(\d{4}\.\d{5})\b")
_DOI = re.compile(r"\bdoi (10\.\d{4,}/[^\s,;)]+)")
_ISSUE = re.compile(r"\b([\w-]+/[\w-]+)#(\d+)\b")


def prose(cls: type) -> str:
    """What a class says of itself, without its attributes."""
    return markdown(_ATTRIBUTES.sub("", _own(cls)))


def attributes(cls: type) -> Mapping[str, str]:
    """What a class and its bases say of each attribute; the nearest one wins."""
    words: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        for block in _ATTRIBUTES.findall(_own(base)):
            pairs = _ATTRIBUTE.findall(inspect.cleandoc(f"\n{block}"))
            words |= {name: markdown(" ".join(text.split())) for name, text in pairs}
    return words


def _own(cls: type) -> str:
    """Its own docstring, not that of a base."""
    return inspect.cleandoc(vars(cls).get("__doc__") or "")


def markdown(text: str) -> str:
    """Literals of reStructuredText as those of Markdown, papers and issues as links."""
    text = text.replace("``", "`").strip()
    text = _ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", text)
    text = _DOI.sub(r"[doi \1](https://doi.org/\1)", text)
    return _ISSUE.sub(r"[\1#\2](https://github.com/\1/issues/\2)", text)


def papers(cls: type) -> list[str]:
    """Where the idea of a class, or of the nearest base that says so, comes from: links."""
    for base in cls.__mro__:
        links = re.findall(r"\[[^\]]+\]\(https://(?:arxiv|doi)\.org[^)]+\)", markdown(_own(base)))
        if links:
            return list(dict.fromkeys(links))
    return []

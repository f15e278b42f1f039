"""SVG text that depends on what is drawn, and on no CPU: ids in order, coordinates rounded.

matplotlib names clip paths and markers by a hash of floats, and writes coordinates to six decimals.
The last bit of a float differs between CPUs; so did the committed figures.
"""

from __future__ import annotations

import re

from bench.report.rounding import snapped

DECIMALS = 2  # hundredths of a point: 1/7200 inch

# matplotlib's writer escapes <, > and & in attributes and text, and quotes attributes with ", so
# that a tag is what this finds. Comments, the document type and text between tags stay as they are.
_TAG = re.compile(r"<!--.*?-->|<[a-zA-Z][^>]*>", re.DOTALL)
_ATTRIBUTE = re.compile(r'(?<=\s)([\w:.-]+)="([^"]*)"')
_REFERENCE = re.compile(r"(?<=url\(#)[^)]+(?=\))")
# Not inside a colour, an identifier or another number.
_NUMBER = re.compile(r"(?<![\w#.])-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")

LINKS = frozenset({"xlink:href", "href"})
NUMBERS = frozenset({"d", "transform", "points", "style", "viewBox", "width", "height"}) | {
    *("x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "r", "rx", "ry", "dx", "dy")
}


def canonical(svg: str) -> str:
    """``svg`` with its ids numbered in order of appearance, and its coordinates rounded.

    References follow their ids. Nothing else changes: elements, their order, text and comments.
    """
    ids: dict[str, str] = {}

    def name(text: str) -> str:
        return ids.setdefault(text, f"n{len(ids) + 1}")

    def attribute(match: re.Match[str]) -> str:
        key, value = match.groups()
        if key == "id":
            value = name(value)
        elif key in LINKS and value.startswith("#"):
            value = f"#{name(value[1:])}"
        else:
            value = _REFERENCE.sub(lambda reference: name(reference[0]), value)
            value = _rounded(value) if key in NUMBERS else value
        return f'{key}="{value}"'

    def tag(match: re.Match[str]) -> str:
        text = match[0]
        return text if text.startswith("<!") else _ATTRIBUTE.sub(attribute, text)

    return _TAG.sub(tag, svg)


def _rounded(value: str) -> str:
    """Every number in ``value``; scales, which multiply what follows, keep their digits."""
    parts = re.split(r"((?:scale|matrix|rotate|url)\([^)]*\))", value)
    return "".join(
        part if index % 2 else _NUMBER.sub(lambda number: snapped(float(number[0]), DECIMALS), part)
        for index, part in enumerate(parts)
    )

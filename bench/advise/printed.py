"""Facts that print as text, show themselves in a notebook, and are to be had as plain data."""

from __future__ import annotations

import abc
import json
from typing import Any

from bench.advise import formats
from bench.advise.words import Page


class Printed(abc.ABC):
    """Facts in every format."""

    @abc.abstractmethod
    def page(self) -> Page:
        """Heading and sections."""

    @abc.abstractmethod
    def as_dict(self) -> dict[str, Any]:
        """Plain data."""

    def json(self) -> str:
        """`as_dict` as text."""
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False)

    def markdown(self) -> str:
        """Headings, sentences and tables."""
        return formats.markdown(self.page())

    def __str__(self) -> str:
        return formats.text(self.page())

    def _repr_html_(self) -> str:
        return formats.html(self.page())

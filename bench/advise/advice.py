"""Advice as a user has it: facts that can be printed."""

from __future__ import annotations

import dataclasses
import json

from bench.advise import formats
from bench.advise.facts import Facts


@dataclasses.dataclass(frozen=True)
class Advice(Facts):
    """What to do about one model on one device.

    Prints as text, shows itself in a notebook, and is to be had as Markdown and as plain data.
    """

    def json(self) -> str:
        """`as_dict` as text."""
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False)

    def markdown(self) -> str:
        """Headings, sentences and tables."""
        return formats.markdown(self)

    def __str__(self) -> str:
        return formats.text(self)

    def _repr_html_(self) -> str:
        return formats.html(self)

"""Advice as a user has it: facts that can be printed."""

from __future__ import annotations

import dataclasses

from bench.advise.facts import Facts
from bench.advise.printed import Printed
from bench.advise.words import Page, page


@dataclasses.dataclass(frozen=True)
class Advice(Facts, Printed):
    """What to do about one model on one device."""

    def page(self) -> Page:
        """Heading and sections."""
        return page(self)

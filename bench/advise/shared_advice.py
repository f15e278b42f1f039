"""Advice on a cluster as a user has it: facts that can be printed."""

from __future__ import annotations

import dataclasses

from bench.advise.printed import Printed
from bench.advise.shared_facts import SharedFacts
from bench.advise.shared_words import page
from bench.advise.words import Page


@dataclasses.dataclass(frozen=True)
class SharedAdvice(SharedFacts, Printed):
    """What to do about one model on several devices."""

    def page(self) -> Page:
        """Heading and sections."""
        return page(self)

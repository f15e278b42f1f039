"""How much a short run tries of what a long one tries in full (`pytest --long`)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import settings


def scaled(count: int) -> int:
    """A share of ``count``, at least 1; see `conftest`, which loads the profiles."""
    return math.ceil(count * settings().max_examples / 100)


def examples(count: int, **options: Any) -> settings:
    """As many counterexamples looked for as `scaled` says."""
    return settings(max_examples=scaled(count), **options)


def few(values: Iterable[Any], count: int = 1) -> list[Any]:
    """Parameters of which a short run takes ``count``, evenly spread."""
    every = list(values)
    taken = {round(n * (len(every) - 1) / max(1, count - 1)) for n in range(count)}
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=marks)
        for number, value in enumerate(every)
        for marks in [() if number in taken else pytest.mark.long]
    ]

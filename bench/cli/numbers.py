"""Numbers on the command line are what they look like: the digits 0 to 9, within 64 bits.

Python takes the digits of every script for digits, and integers of any length.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from typing import get_args

_LARGEST = 2**63 - 1
_MOST_DIGITS = 40


def check(command: Callable[..., None], arguments: Sequence[str]) -> None:
    """Look at what is given for the options of a command that take numbers.

    Raises:
        ValueError: names the option.
    """
    for option, text in _given(_options(command), arguments):
        check_one(option, text)


def check_one(option: str, text: str) -> None:
    """Look at what is given for one option.

    Raises:
        ValueError: names the option.
    """
    if not text.isascii():
        raise ValueError(f"{option} takes the digits 0 to 9, not {text!r}")
    digits = text.strip().lstrip("+-")
    if len(text) > _MOST_DIGITS or (digits.isdecimal() and int(digits) > _LARGEST):
        raise ValueError(f"{option} must be within 64 bits, not {text[:_MOST_DIGITS]}")


def precisions(texts: Sequence[str]) -> tuple[str, float | None]:
    """``["bf16", "2%"]`` as ``("bf16", 0.02)``: of numbers, and of the interval of a step ratio.

    Raises:
        ValueError: two of a kind, or a percentage that is no number.
    """
    formats = [text for text in texts if not text.endswith("%")]
    widths = [text for text in texts if text.endswith("%")]
    for kind in (formats, widths):
        if len(kind) > 1:
            raise ValueError(f"--precision takes one of {', '.join(kind)}")
    return (formats or ["fp32"])[0], part(widths[0]) if widths else None


def part(text: str) -> float:
    """``2%`` as 0.02.

    Raises:
        ValueError: no percentage.
    """
    number = text.removesuffix("%").strip()
    if not re.fullmatch(r"[0-9]+(\.[0-9]*)?", number):
        raise ValueError(f"--precision takes a percentage such as 2%, not {text!r}")
    return float(number) / 100


def _options(command: Callable[..., None]) -> set[str]:
    parameters = inspect.signature(command, eval_str=True).parameters.values()
    numbers = [p for p in parameters if {int, float} & {*_kinds(p.annotation)}]
    return {f"--{parameter.name.replace('_', '-')}" for parameter in numbers}


def _kinds(annotation: object) -> Iterator[object]:
    """The types of ``Annotated[int | None, …]``."""
    kind = get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation
    yield from get_args(kind) or (kind,)


def _given(options: set[str], arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    for place, argument in enumerate(arguments):
        name, sign, value = argument.partition("=")
        if name in options:
            yield name, value if sign else "".join(arguments[place + 1 : place + 2])

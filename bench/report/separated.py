"""CSV that a spreadsheet reads as data: no cell is a formula."""

from __future__ import annotations

import contextlib
from typing import Any

import pandas as pd

_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def csv(frame: pd.DataFrame) -> str:
    """The rows of ``frame``; commas, quotes and line ends are escaped, texts neutralised."""
    columns = {
        neutral(name): column
        if pd.api.types.is_numeric_dtype(column)
        else pd.Series([neutral(value) for value in column], dtype=object)
        for name, column in frame.reset_index(drop=True).items()
    }
    return str(pd.DataFrame(columns).to_csv(index=False, lineterminator="\n"))


def neutral(value: Any) -> Any:
    """A text that a spreadsheet would calculate, behind an apostrophe; all else as it is.

    Lines end in one way: Python's writer leaves a carriage return bare, which ends a row elsewhere.
    """
    if not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    if not text.startswith(_FORMULAS):
        return text
    with contextlib.suppress(ValueError):
        float(text)
        return text
    return f"'{text}"

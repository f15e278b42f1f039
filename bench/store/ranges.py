"""What a stored value may be, told by its field's name: bytes are not negative, seconds not zero.

The schema knows types alone; a file that keeps to it may still be damaged, or made up.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

LARGEST = 2**63 - 1
"""No count, size or seed is beyond what PyTorch and pandas can hold."""
_LONGEST = 100
MOST_REASON = 10_000
_NAMES = frozenset({"machine_id", "workload", "strategy", "cell_id", "device", "model"})
"""They become parts of files' names."""
_NAME = re.compile(r"(?!\.)[^\\\x00-\x1f\x7f]{1,500}")
_COUNTS = ("_bytes", "_flops", "_count", "threads", "rounds", "warmup", "updates", "forwards")
_STEPS = frozenset({"step_s", "none_step_s", "warmup_step_s", "modelled_step_s"})
_SURPLUS = "recompute_flops"
"""What a compiler leaves out may be more than what is done again."""


class Sizes(msgspec.Struct, frozen=True):
    """Options of a workload that reports calculate with."""

    layers: int | msgspec.UnsetType = msgspec.UNSET
    batch: int | msgspec.UnsetType = msgspec.UNSET
    seq: int | msgspec.UnsetType = msgspec.UNSET
    dim: int | msgspec.UnsetType = msgspec.UNSET
    heads: int | msgspec.UnsetType = msgspec.UNSET
    attention: str | msgspec.UnsetType = msgspec.UNSET


class Spacing(msgspec.Struct, frozen=True):
    """Parameters of a strategy that reports calculate with."""

    k: int | msgspec.UnsetType = msgspec.UNSET


def folder_of(workload: str) -> str:
    """A workload's name as one part of a path; those of this package stay as they are."""
    return re.sub(r"[^\w.+=,-]+", "-", workload)[-_LONGEST:].strip("-.") or "-"


def check(value: msgspec.Struct) -> None:
    """Refuse a value that no measurement gives.

    Raises:
        ValueError: names the field.
    """
    for name, one in _leaves("", msgspec.to_builtins(value)):
        problem = _problem(name, one)
        if problem:
            raise ValueError(f"{name} must be {problem}, not {str(one)[:60]!r}")
    for field, kind in (("workload_options", Sizes), ("params", Spacing)):
        _check_read(field, getattr(value, field, {}), kind)


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every value that is no container, under the name of the nearest field."""
    if isinstance(value, Mapping):
        own = name.endswith(("_by_category", "recompute_s"))
        for key, one in value.items():
            yield from _leaves(name if own else str(key), one)
    elif isinstance(value, list):
        for one in value:
            yield from _leaves(name, one)
    else:
        yield name, value


def _problem(name: str, value: Any) -> str:
    if isinstance(value, str):
        return _text_problem(name, value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    if not math.isfinite(value) or abs(value) > LARGEST:
        return "a number that 64 bits can hold"
    if name in _STEPS:
        return "" if value > 0 else "more than zero seconds"
    counted = name.endswith((*_COUNTS, "_s", "_by_category")) and not name.endswith(_SURPLUS)
    return "at least zero" if counted and value < 0 else ""


def _text_problem(name: str, value: str) -> str:
    if name in _NAMES and (
        _NAME.fullmatch(value) is None or ("/" in value and not _may_have_slashes(name, value))
    ):
        return "a name that a file can have"
    if name == "reason" and len(value) > MOST_REASON:
        return f"at most {MOST_REASON} characters"
    return ""


def _may_have_slashes(name: str, value: str) -> bool:
    """Of models from elsewhere, which are paths or have owners; `folder_of` makes a file's name."""
    source = name == "workload" and ":" in value and ".." not in value.split("/")
    return source or name == "model"


def _check_read(field: str, values: Mapping[str, Any], kind: type[msgspec.Struct]) -> None:
    for name, one in values.items():
        if isinstance(one, Mapping | list):
            raise ValueError(f"{field}: {name} must be one value, not {str(one)[:60]!r}")  # noqa: TRY004 - input
    try:
        read = msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"{field}: {error}") from error
    for name in read.__struct_fields__:
        size = getattr(read, name)
        if isinstance(size, int) and size < 1:
            raise ValueError(f"{field}: {name} must be at least 1, not {size}")

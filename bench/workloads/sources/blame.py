"""Errors of users' models, batches and losses, as one sentence that names their file and line."""

from __future__ import annotations

import inspect
import site
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
)

import strategies
from bench.workloads.errors import InputError

_BENCH = Path(__file__).parents[2]
_OURS = (_BENCH, Path(strategies.__file__).parent)
_TORCH = Path(torch.__file__).parent
_MOST_CHARACTERS = 300


def sentence(error: BaseException, otherwise: str, roots: Iterable[Path] = ()) -> InputError:
    """What is wrong, and where in the user's files.

    Args:
        error: that the user's code raised.
        otherwise: the place, where no line of theirs is in the traceback.
        roots: folders of their files; by default every line counts that is neither PyTorch's nor
            this project's.
    """
    if isinstance(error, InputError):
        return error
    place = _place(error, tuple(roots)) or otherwise
    if needs_value(error):
        return InputError(
            f"{place}: the model needs the value of a tensor, and a simulated tensor"
            " has none; take .item() and branches on values out of the forward pass"
        )
    first = str(error).split("\n", maxsplit=1)[0][: 2 * _MOST_CHARACTERS]
    shown = "".join(c if c.isprintable() else " " for c in first)  # a terminal obeys the others
    text = " ".join(shown.split()).rstrip(".")
    return InputError(f"{place}: {type(error).__name__}: {text[:_MOST_CHARACTERS]}".rstrip(": "))


def needs_value(error: BaseException) -> bool:
    """Whether a simulated tensor, which has no values, was asked for one."""
    # It loads sympy, which takes as long as all the rest.
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode  # noqa: PLC0415

    kinds = (DataDependentOutputException, DynamicOutputShapeException, GuardOnDataDependentSymNode)
    return isinstance(error, kinds) or (
        isinstance(error, RuntimeError) and ".numpy()" in str(error)
    )


def place_of(code: Any) -> str | None:
    """``file:line`` of a function, a method or a class.

    ``None`` where it is PyTorch's, or there is no source.
    """
    try:
        file = inspect.getsourcefile(code)
        _, line = inspect.getsourcelines(code)
    except (TypeError, OSError):
        return None
    return None if Path(str(file)).is_relative_to(_TORCH) else f"{file}:{line}"


def _place(error: BaseException, roots: Sequence[Path]) -> str | None:
    """The innermost line of the user's."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if _is_theirs(Path(frame.filename), roots)]
    if not theirs and roots:
        return _place(error, ())
    return f"{theirs[-1].filename}:{theirs[-1].lineno}" if theirs else None


def _is_theirs(file: Path, roots: Sequence[Path]) -> bool:
    if not file.is_file() or any(map(file.is_relative_to, (*_OURS, _TORCH))):
        return False
    if not roots:
        return not file.is_relative_to(Path(inspect.__file__).parent) or _is_installed(file)
    inside = any(map(file.is_relative_to, roots))
    return inside and not (_is_installed(file) and not any(map(_is_installed, roots)))


def _is_installed(file: Path) -> bool:
    return any(map(file.is_relative_to, site.getsitepackages()))

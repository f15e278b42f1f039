"""Operators that write into a tensor after autograd saved it: `rrelu` saves room, and draws there.

PyTorch's checkpoint stops a recompute when the last tensor is saved: too early for the last such
operator, whose gradient would be that of whatever lay in memory. Its block runs again to its end.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from strategies.execution.errors import Unsupported
from strategies.execution.hooks import Hooks


def writes_late(outputs: Iterable[Any], leaves: Iterable[Any]) -> bool:
    """Whether there is one in the graph from a block's outputs to the leaves of its arguments."""
    waiting, seen = _functions(outputs), {None, *_functions(leaves)}
    while waiting:
        function = waiting.pop()
        if function in seen:
            continue
        kind: Any = type(function)
        if _is_late(kind):
            return True
        seen.add(function)
        waiting += [each for each, _ in function.next_functions]
    return False


def run_to_the_end(hooks: Hooks, block: object) -> None:
    """Have PyTorch's checkpoint of these hooks run again to its end.

    Raises:
        Unsupported: this version of PyTorch keeps it elsewhere.
    """
    pack: Any = hooks[0]
    names = dict(zip(pack.__code__.co_freevars, pack.__closure__ or (), strict=False))
    if "frame" not in names:
        raise Unsupported(
            f"{type(block).__name__} has an operator that writes into a tensor after autograd saved"
            " it (rrelu), and this version of PyTorch recomputes no such block; leave it out"
        )
    names["frame"].cell_contents.early_stop = False


def _functions(values: Iterable[Any]) -> list[Any]:
    return [value.grad_fn for value in values if isinstance(value, Tensor)]


@functools.cache
def _is_late(kind: type) -> bool:
    """Whether a kind of backward reads an argument that its operator writes to."""
    name = re.sub(r"Backward\d+$", "", kind.__name__)
    packet = getattr(torch.ops.aten, re.sub(r"(?<=.)(?=[A-Z])", "_", name).lower(), None)
    schemas = [getattr(packet, each)._schema for each in packet.overloads()] if packet else []
    written = {argument.name for s in schemas for argument in s.arguments if _is_written(argument)}
    return any(f"_saved_{each}" in dir(kind) for each in written)


def _is_written(argument: Any) -> bool:
    alias = argument.alias_info
    return alias is not None and alias.is_write and not argument.is_out

"""A call in a frame of PyTorch's checkpoint, watched: what it meets, its recompute meets again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from typing import Any

from torch.utils.checkpoint import noop_context_fn

from strategies.execution.errors import writes_arguments
from strategies.execution.frames import begun
from strategies.execution.hooks import top
from strategies.execution.late import run_to_the_end
from strategies.execution.met import Pair
from strategies.execution.state import BlockState
from strategies.execution.tensors import Spec, flat, unflat


def framed(
    function: Callable[..., Any],
    state: BlockState | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    more: Callable[[], Pair] | None,
) -> Any:
    """As `strategies.execution.checkpoint.recompute`, where gradients are recorded."""
    leaves, spec = flat(args, kwargs)
    if state is None:
        again = functools.partial(_again, function, spec)
        frame = begun(again, leaves, more or noop_context_fn, None)
        output = _run(frame, function, args, kwargs)
        next(frame, None)
        return output
    met = state.begin(leaves)
    met.keep(function, leaves, spec)
    if more:
        met.more = more()
    block = state.unexamined if state.is_exact and not state.is_examined else None
    frame = begun(met, leaves if met.kept is None else (), met.contexts, block)
    output = _run(frame, function, args, kwargs)
    if state.is_late is not False and state.finds_late(output, leaves):
        run_to_the_end(top(), state.root)
    next(frame, None)
    state.end(met, leaves)
    if met.written:
        raise writes_arguments(state.root)
    return output


def _run(frame: Generator[None], function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    except BaseException as error:
        frame.throw(error)
        raise


def _again(function: Callable[..., Any], spec: Spec | None, *leaves: Any) -> Any:
    args, kwargs = unflat(leaves, spec)
    return function(*args, **kwargs)

"""In which order the blocks of a model are called."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from strategies.execution.chain import Chain, of_calls
from strategies.profiling.compiled import is_compiled
from strategies.profiling.saved import nothing
from strategies.profiling.scout import calls_of
from strategies.profiling.step import Step


def ordered(chain: Chain, step: Step) -> Chain:
    """The calls of the blocks that a plan can be made for, in the order in which they run.

    Of towers whose blocks run once, in whatever order, those with nothing between; what remains is
    named in ``left_out``. Of a tower one of whose blocks runs several times (layers that are
    shared, an encoder for two texts), every call. Where nothing would be left, the chain is as it
    was, to be refused with its order.

    Args:
        chain: its blocks, each once or, where a list holds one several times, as often.
        step: a forward of it is watched.
    """
    if any(parameter.is_meta for parameter in step.model.parameters()):
        return chain  # which cannot run, and is refused
    blocks = list(dict.fromkeys(chain.blocks))
    first = [chain.blocks.index(block) for block in blocks]
    order = None if any(map(is_compiled, blocks)) else calls_of(step, chain)
    if order is None:
        order = [first[number] for number in _running_order(blocks, step)]
    towers = [[at for at in span if at in first] for span in chain.spans]
    runs = [_runs(order, tower) for tower in towers]
    if not any(runs):
        return chain
    planned = {at for tower, here in zip(towers, runs, strict=True) if here for at in tower}
    left_out = [path for path, here in zip(chain.paths, runs, strict=True) if not here]
    calls = of_calls(chain, [at for at in order if at in planned])
    return dataclasses.replace(calls, left_out=(*chain.left_out, *left_out))


def _runs(order: list[int], tower: Sequence[int]) -> bool:
    """Whether a tower's blocks run once each, in any order, and nothing between, or repeatedly."""
    calls = [at for at in order if at in tower]
    if not tower or set(calls) != set(tower):
        return False
    begin = order.index(calls[0])
    return len(calls) > len(tower) or order[begin : begin + len(tower)] == calls


def _running_order(blocks: Sequence[nn.Module], step: Step) -> list[int]:
    order: list[int] = []
    with contextlib.ExitStack() as stack:
        for index, block in enumerate(blocks):

            def hook(module: nn.Module, args: Any, index: int = index) -> None:
                del module, args
                order.append(index)

            stack.callback(block.register_forward_pre_hook(hook).remove)
        with torch.autograd.graph.saved_tensors_hooks(_nothing, nothing):  # takes no memory
            step.forward()
    return order


def _nothing(_: Any) -> Any:
    """Kept of a tensor that a graph wants."""

"""In which order the towers of a model run."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import torch
from torch import nn

from strategies.execution.chain import Chain, of_towers
from strategies.profiling.step import Step


def ordered(chain: Chain, step: Step) -> Chain:
    """The towers that a plan can be made for, in the order in which they run.

    Every block must run once, those of a tower one after the other. What remains is named in
    ``left_out``; where nothing would be left, the chain is as it was, to be refused with its order.

    Args:
        chain: of several towers; one alone is left as it is.
        step: a forward of it is watched.
    """
    if len(chain.containers) < 2:
        return chain
    order = _running_order(chain, step)
    towers = enumerate(chain.spans)
    running = {order.index(span[0]): n for n, span in towers if _runs(order, span)}
    if not running:
        return chain
    places = [number for _, number in sorted(running.items())]
    left_out = [path for n, path in enumerate(chain.paths) if n not in places]
    running_chain = of_towers([(chain.paths[n], chain.containers[n]) for n in places])
    return dataclasses.replace(running_chain, left_out=(*chain.left_out, *left_out))


def _runs(order: list[int], span: range) -> bool:
    """Whether the blocks of a tower run once each, and nothing between them."""
    if span[0] not in order:
        return False
    begin = order.index(span[0])
    alone = all(order.count(index) == 1 for index in span)
    return alone and order[begin : begin + len(span)] == list(span)


def _running_order(chain: Chain, step: Step) -> list[int]:
    order: list[int] = []
    with contextlib.ExitStack() as stack:
        for index, block in enumerate(chain.blocks):

            def hook(module: nn.Module, args: Any, index: int = index) -> None:
                del module, args
                order.append(index)

            stack.callback(block.register_forward_pre_hook(hook).remove)
        with torch.autograd.graph.saved_tensors_hooks(_nothing, _nothing):  # takes no memory
            step.forward()
    return order


def _nothing(_: Any) -> Any:
    """Of a graph that is never run backward."""

"""How much of what autograd saves lies in the blocks, and which of them run."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from strategies.execution.chain import Chain, in_copy
from strategies.execution.containers import parts_instead
from strategies.execution.errors import RunsBackward
from strategies.execution.tensors import dense_parts, storage_key
from strategies.profiling.compiled import eagerly
from strategies.profiling.ledger import unique_bytes
from strategies.profiling.saved import nothing
from strategies.profiling.step import ExampleStep, Step

_UNKNOWN = "backward runs within forward, so that what they save is not known"


@dataclasses.dataclass(frozen=True)
class Coverage:
    """What one forward saved.

    Attributes:
        ran: how often each block was called.
        inside_bytes: of what the blocks saved, parameters and the batch aside.
        outside_bytes: of what the rest of the model saved beside that.
        known: so far as is known; not of a forward that runs backward itself.
    """

    ran: tuple[int, ...]
    inside_bytes: int
    outside_bytes: int
    known: bool = True

    def sentences(self, chain: Chain) -> Iterator[str]:
        """For a user: which blocks there are, and how much of the memory is theirs."""
        towers = zip(chain.paths, chain.spans, strict=True)
        counts = [f"{_counted(chain, span)} of {path or 'the model'}" for path, span in towers]
        total_bytes = self.inside_bytes + self.outside_bytes
        share = self.inside_bytes / total_bytes if total_bytes else 0.0
        saved = f"they save {share:.0%} of what forward saves"
        yield f"blocks: {' and '.join(counts)}; {saved if self.known else _UNKNOWN}"
        idle = [name for name, calls in zip(chain.names, self.ran, strict=True) if not calls]
        if idle and self.known:
            lists = zip(chain.paths, chain.containers, chain.spans, strict=True)
            unused = [(p, each) for p, each, span in lists if not any(self.ran[n] for n in span)]
            remedy = parts_instead(unused)
            yield f"not run on the example, and so without effect: {', '.join(idle)}{remedy}"


def _counted(chain: Chain, span: range) -> str:
    """How many blocks, and calls, if these are more."""
    blocks, calls = len({chain.blocks[index] for index in span}), len(span)
    return f"{calls} calls of the {blocks}" if calls > blocks else str(blocks)


def coverage(chain: Chain, step: Step) -> Coverage:
    """Watch one forward, on fake tensors where the model runs on them: these take no memory.

    Args:
        chain: of the step's model.
        step: what to run.
    """
    if isinstance(step, ExampleStep):
        with contextlib.suppress(Exception):  # a model may need values, or know no fake tensors
            mode = FakeTensorMode(allow_non_fake_inputs=True)  # of a loss, labels
            fake = step.faked(mode)
            with mode:
                return _watched(in_copy(chain, fake.model), fake)
    return _watched(chain, step)


def _watched(chain: Chain, step: Step) -> Coverage:
    watcher = _Watcher(step)
    ran = dict.fromkeys(chain.blocks, 0)

    def enter(block: nn.Module, args: Any) -> None:
        del args
        ran[block] += 1
        watcher.depth += 1

    def leave(block: nn.Module, args: Any, output: Any) -> None:
        del block, args, output
        watcher.depth -= 1

    with contextlib.ExitStack() as stack:
        for block in ran:
            stack.callback(block.register_forward_pre_hook(enter).remove)
            stack.callback(block.register_forward_hook(leave, always_call=True).remove)
        stack.enter_context(eagerly(tuple(step.model.modules())))
        with torch.autograd.graph.saved_tensors_hooks(watcher.pack, nothing):
            known = _runs_no_backward(step)
    inside, outside = (unique_bytes(watcher.saved[place].values()) for place in (True, False))
    return Coverage(tuple(ran[block] for block in chain.blocks), inside, outside, known)


def _runs_no_backward(step: Step) -> bool:
    try:
        step.forward()
    except RunsBackward:
        return False
    return True


class _Watcher:
    """Sorts what autograd saves by whether a block runs."""

    def __init__(self, step: Step) -> None:
        self.resident = {storage_key(tensor) for tensor in step.resident_tensors()}
        self.depth = 0
        self.saved: dict[bool, dict[int, Tensor]] = {True: {}, False: {}}

    def pack(self, tensor: Tensor) -> None:
        """Keep a part that has no graph, so that no memory is used twice."""
        key = storage_key(tensor)
        if key not in self.resident and key not in self.saved[True]:
            self.saved[False].pop(key, None) if self.depth else None
            self.saved[self.depth > 0][key] = dense_parts(tensor)[0].detach()

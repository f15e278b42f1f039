"""Profiles a chain: what each block costs, by watching three passes of the model.

1. A forward that lists what autograd saves, and for which block.
2. A step as the model is: what a block holds, needs and computes when it runs normally.
3. A step with every block in a recompute group of its own: what recompute needs.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bench.measure.ledger import Ledger, Mark
from bench.training import TrainingStep, unique_bytes
from strategies import execute
from strategies import plan as plans
from strategies.chain import Chain
from strategies.cost import BlockCost, ChainProfile


@dataclasses.dataclass
class _Kept:
    """What autograd saves for one block."""

    saved_bytes: int
    keeps_input: bool
    keeps_output: bool
    output_bytes: int


def profile_chain(step: TrainingStep, chain: Chain) -> ChainProfile:
    """The profile of ``step``'s model, whose blocks are ``chain``.

    Args:
        step: runs on any device, fake tensors included; its model is under no plan.
        chain: the blocks; each must run once, in order.

    Raises:
        ValueError: a block runs more than once, or out of order, in one forward.
    """
    kept, tail_keeps_input, input_bytes = _watch_saved(step, chain)
    normal = _watch_step(step, chain)
    undos = execute.install(chain, plans.uniform(len(chain), 1))
    try:
        recomputed = _watch_step(step, chain)
    finally:
        while undos:
            undos.pop()()
    gradients = _gradient_bytes(chain)
    blocks = tuple(
        _block_cost(kept[i], normal, recomputed, i, gradients[i]) for i in range(len(chain))
    )
    return _assemble(blocks, normal, tail_keeps_input=tail_keeps_input, input_bytes=input_bytes)


# Pass 1: what is saved.


def _watch_saved(step: TrainingStep, chain: Chain) -> tuple[list[_Kept], bool, int]:
    watcher = _SavedWatcher(step)
    saved_hooks = torch.autograd.graph.saved_tensors_hooks(watcher.pack, lambda tensor: tensor)
    with _hooks(chain, watcher.enter, watcher.leave), saved_hooks:
        loss = step.forward()
    del loss
    _check_order(watcher.order, len(chain))
    return watcher.kept, watcher.tail_keeps_input, watcher.input_bytes


class _SavedWatcher:
    """Sorts what autograd saves by the block that runs."""

    def __init__(self, step: TrainingStep) -> None:
        self.resident = {_key(t) for t in step.resident_tensors()}
        self.before: set[int] = set()  # saved outside the blocks: tables and masks that they share
        self.order: list[int] = []
        self.kept: list[_Kept] = []
        self.saved: dict[int, int] = {}
        self.inside = False
        self.boundary: tuple[int, int] = (0, 0)
        self.input_bytes = 0
        self.tail_keeps_input = False
        self.alive: list[Tensor] = []  # so that no storage's address is used twice

    def pack(self, tensor: Tensor) -> Tensor:
        key = _key(tensor)
        self.alive.append(tensor)
        if not self.inside:
            self.tail_keeps_input |= bool(self.order) and key == self.boundary[0]
            self.before.add(key)
        elif key not in self.resident and key not in self.before:
            self.saved[key] = tensor.untyped_storage().nbytes()
        return tensor

    def enter(self, index: int, boundary: Tensor, others: Sequence[Tensor]) -> None:
        self.inside, self.saved = True, {}
        self.order.append(index)
        self.before |= {_key(t) for t in others}
        self.before.discard(_key(boundary))
        if index == 0:
            self.input_bytes = unique_bytes([boundary])
        self.boundary = (_key(boundary), unique_bytes([boundary]))

    def leave(self, index: int, output: Tensor) -> None:
        del index
        key = _key(output)
        inner = {k: size for k, size in self.saved.items() if k not in (key, self.boundary[0])}
        self.kept.append(
            _Kept(
                saved_bytes=sum(inner.values()),
                keeps_input=self.boundary[0] in self.saved,
                keeps_output=key in self.saved,
                output_bytes=unique_bytes([output]),
            )
        )
        self.before.discard(self.boundary[0])
        self.boundary = (key, unique_bytes([output]))
        self.alive.append(output)
        self.inside = False


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _check_order(order: list[int], n_blocks: int) -> None:
    if order != list(range(n_blocks)):
        raise ValueError(f"the blocks ran in the order {order}; a chain runs each once, in order")


@contextlib.contextmanager
def _hooks(
    chain: Chain,
    enter: Callable[[int, Tensor, Sequence[Tensor]], None],
    leave: Callable[[int, Tensor], None],
) -> Iterator[None]:
    """Call ``enter`` and ``leave`` around every block's forward."""

    def before(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            del module
            tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
            enter(index, tensors[0], tensors[1:])

        return hook

    def after(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            del module, args, kwargs
            leave(index, next(t for t in tree_leaves(output) if isinstance(t, Tensor)))

        return hook

    with contextlib.ExitStack() as stack:
        for index, block in enumerate(chain.blocks):
            pre = block.register_forward_pre_hook(before(index), with_kwargs=True)
            post = block.register_forward_hook(after(index), with_kwargs=True)
            stack.callback(pre.remove)
            stack.callback(post.remove)
        yield


# Passes 2 and 3: a whole step under the ledger.


@dataclasses.dataclass
class _Watched:
    """A step's ledger, its moments by name."""

    ledger: Ledger
    resident_bytes: int
    group_bytes: int

    def at(self, name: str) -> Mark:
        return next(mark for mark in self.ledger.marks if mark.name == name)

    def working_bytes(self, begin: str, end: str) -> int:
        """Most alive between two moments, above what was alive at the first."""
        start = self.at(begin)
        return self.ledger.peak_bytes(start, self.at(end)) - start.alive_bytes

    def gained_bytes(self, begin: str, end: str) -> int:
        return self.at(end).alive_bytes - self.at(begin).alive_bytes

    def flops(self, begin: str, end: str) -> int:
        return self.at(end).flops - self.at(begin).flops

    def recompute_flops(self, begin: str, end: str) -> int:
        return self.at(end).recompute_flops - self.at(begin).recompute_flops


def _watch_step(step: TrainingStep, chain: Chain) -> _Watched:
    step.drop_gradients()
    ledger = Ledger()
    resident_bytes = ledger.adopt(step.resident_tensors())
    seen: set[str] = set()

    def mark(name: str) -> None:
        if name not in seen:  # a recompute enters the block again
            seen.add(name)
            ledger.mark(name)

    def enter(index: int, boundary: Tensor, others: Sequence[Tensor]) -> None:
        del others
        if index == 0 and boundary.requires_grad and f"enter {index}" not in seen:
            boundary.register_hook(lambda _: mark("backward of the head"))
        mark(f"enter {index}")

    def leave(index: int, output: Tensor) -> None:
        if output.requires_grad and f"leave {index}" not in seen:
            output.register_hook(lambda _: mark(f"backward {index}"))
        mark(f"leave {index}")

    with _hooks(chain, enter, leave), ledger:
        mark("start")
        loss = step.forward()
        mark("forward done")
        step.backward(loss)
        mark("backward of the head")
        del loss
        mark("end")
    group_bytes = torch.get_rng_state().nbytes
    step.drop_gradients()
    return _Watched(ledger, resident_bytes, group_bytes)


def _after(index: int) -> str:
    """The moment at which backward of block ``index`` is over."""
    return f"backward {index - 1}" if index else "backward of the head"


def _block_cost(
    kept: _Kept, normal: _Watched, recomputed: _Watched, index: int, gradient_bytes: int
) -> BlockCost:
    enter, leave = f"enter {index}", f"leave {index}"
    begin, end = f"backward {index}", _after(index)
    return BlockCost(
        saved_bytes=kept.saved_bytes,
        keeps_input=kept.keeps_input,
        keeps_output=kept.keeps_output,
        output_bytes=kept.output_bytes,
        forward_working_bytes=normal.working_bytes(enter, leave),
        unsaved_working_bytes=recomputed.working_bytes(enter, leave),
        backward_working_bytes=normal.working_bytes(begin, end),
        recompute_working_bytes=recomputed.working_bytes(begin, end),
        gradient_bytes=gradient_bytes,
        forward_flops=normal.flops(enter, leave),
        backward_flops=normal.flops(begin, end),
        inner_recompute_flops=normal.recompute_flops(begin, end),
        last_recompute_flops=recomputed.recompute_flops(begin, end),
    )


def _gradient_bytes(chain: Chain) -> list[int]:
    """Bytes of parameter gradients that each block's backward creates; backward runs in reverse."""
    seen: set[int] = set()
    sizes = []
    for block in reversed(chain.blocks):
        new = [p for p in block.parameters() if p.requires_grad and id(p) not in seen]
        seen |= {id(p) for p in new}
        sizes.append(sum(p.numel() * p.element_size() for p in new))
    return sizes[::-1]


def _assemble(
    blocks: tuple[BlockCost, ...], normal: _Watched, *, tail_keeps_input: bool, input_bytes: int
) -> ChainProfile:
    last = len(blocks)
    enter, leave, done = normal.at("enter 0"), normal.at(f"leave {last - 1}"), "forward done"
    head_saved_bytes = enter.alive_bytes - normal.resident_bytes - input_bytes
    kept_bytes = _kept_bytes(blocks, input_bytes)
    handed_on = blocks[-1].output_bytes * (not blocks[-1].keeps_output)
    # Alive when a plain run reaches the tail, and when it ends, but for what the tail keeps.
    at_tail = enter.alive_bytes - input_bytes + kept_bytes + handed_on
    at_end = at_tail - handed_on * (not tail_keeps_input)
    begin = f"backward {last - 1}"
    tail_saved_bytes = normal.at(done).alive_bytes - at_end
    before_blocks = at_tail - handed_on + blocks[-1].output_bytes  # its gradient in its place
    return ChainProfile(
        blocks=blocks,
        input_bytes=input_bytes,
        resident_bytes=normal.resident_bytes,
        head_saved_bytes=head_saved_bytes,
        head_working_bytes=normal.working_bytes("start", "enter 0"),
        head_backward_working_bytes=normal.working_bytes("backward of the head", "end"),
        tail_saved_bytes=tail_saved_bytes,
        tail_keeps_input=tail_keeps_input,
        tail_working_bytes=normal.ledger.peak_bytes(leave, normal.at(done)) - at_tail,
        tail_backward_working_bytes=normal.working_bytes(done, begin),
        tail_gradient_bytes=normal.at(begin).alive_bytes - before_blocks,
        group_bytes=normal.group_bytes,
    )


def _kept_bytes(blocks: tuple[BlockCost, ...], input_bytes: int) -> int:
    """Held by the blocks when all ran normally: saved tensors, and boundaries that they keep."""
    sizes = [input_bytes, *(block.output_bytes for block in blocks)]
    kept = {i for i, block in enumerate(blocks) if block.keeps_input}
    kept |= {i + 1 for i, block in enumerate(blocks) if block.keeps_output}
    return sum(block.saved_bytes for block in blocks) + sum(sizes[i] for i in kept)

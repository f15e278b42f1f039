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
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_leaves

from strategies import execute
from strategies import modes as modes_of
from strategies import plan as plans
from strategies.base import Undo, Unsupported
from strategies.chain import Chain
from strategies.modes import CHECKPOINTS
from strategies.profile import BlockCost, ChainProfile, Mode
from strategies.profiling.allocator import AllocatorTrace
from strategies.profiling.ledger import Ledger, Mark, unique_bytes
from strategies.profiling.rates import Rates, nominal
from strategies.profiling.step import Step
from strategies.schedule import ALL

PS = 1e12  # picoseconds in a second


@dataclasses.dataclass
class _Kept:
    """What autograd saves for one block."""

    saved_bytes: int
    keeps_input: bool
    keeps_output: bool
    output_bytes: int


@dataclasses.dataclass
class _Saved:
    """What autograd saves in one forward of the model."""

    blocks: list[_Kept]
    tail_keeps_input: bool
    input_bytes: int


def profile_chain(
    step: Step,
    chain: Chain,
    *,
    rates: Rates | None = None,
    modes: Sequence[str] = (),
    scratch: bool = False,
) -> ChainProfile:
    """The profile of ``step``'s model, whose blocks are ``chain``.

    Args:
        step: runs on any device, fake tensors included; its model is under no plan. Its gradients
            are dropped; see `strategies.profiling.step.preserved`.
        chain: the blocks; each must run once, in order.
        rates: what the operators' times are taken from; default: round figures of the device.
        modes: op policies to profile besides ``all`` (`strategies.modes`), those that no block
            can run in left out.
        scratch: on a real CPU, working bytes include the scratch memory of kernels, as its
            allocator saw them; elsewhere they are tensors alone.

    Raises:
        Unsupported: a block runs more than once, or out of order, in one forward.
    """
    how = _How(rates or nominal(step.device), scratch and _is_real_cpu(step))
    saved = _watch_saved(step, chain)
    normal = _watch_step(step, chain, how)
    with installed(lambda: execute.install(chain, plans.uniform(len(chain), 1))):
        recomputed = _watch_step(step, chain, how)
    others = {name: _watch_mode(step, chain, name, how) for name in modes}
    gradients = _gradient_bytes(chain)
    blocks = []
    for index in range(len(chain)):
        found = [_mode(ALL, saved.blocks[index], normal, normal, index)]
        for name, watched in others.items():
            if watched is not None and index in watched.indices:
                kept = watched.saved.blocks[index]
                found.append(_mode(name, kept, watched.step, normal, index))
        sizes = (saved.blocks[index].output_bytes, gradients[index])
        blocks.append(_block_cost(tuple(found), *sizes, (normal, recomputed), index))
    return _assemble(tuple(blocks), normal, saved, chain.borders)


@dataclasses.dataclass(frozen=True)
class _How:
    """What to watch a step with."""

    rates: Rates
    scratch: bool


def _is_real_cpu(step: Step) -> bool:
    fake = any(isinstance(tensor, FakeTensor) for tensor in step.resident_tensors())
    return step.device.type == "cpu" and not fake


@dataclasses.dataclass
class _ModeWatched:
    """The two passes of one op policy, and the blocks that can run under it."""

    indices: frozenset[int]
    saved: _Saved
    step: _Watched


def _watch_mode(step: Step, chain: Chain, name: str, how: _How) -> _ModeWatched | None:
    indices = frozenset(modes_of.supporting(chain, name))
    if not indices:
        return None
    with (
        contextlib.suppress(Unsupported),  # some blocks only find out when they run
        installed(lambda: modes_of.install(chain, dict.fromkeys(indices, name))),
    ):
        return _ModeWatched(indices, _watch_saved(step, chain), _watch_step(step, chain, how))
    return None


@contextlib.contextmanager
def installed(install: Callable[[], list[Undo]]) -> Iterator[None]:
    """What ``install`` does, undone at the end."""
    undos = install()
    try:
        yield
    finally:
        while undos:
            undos.pop()()


# Pass 1: what is saved.


def _watch_saved(step: Step, chain: Chain) -> _Saved:
    watcher = _SavedWatcher(step)
    saved_hooks = torch.autograd.graph.saved_tensors_hooks(watcher.pack, lambda tensor: tensor)
    with hooks(chain, watcher.enter, watcher.leave), saved_hooks:
        loss = step.forward()
    del loss
    _check_order(watcher.order, len(chain))
    return _Saved(watcher.kept, watcher.tail_keeps_input, watcher.input_bytes)


class _SavedWatcher:
    """Sorts what autograd saves by the block that runs."""

    def __init__(self, step: Step) -> None:
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
        raise Unsupported(f"the blocks ran in the order {order}; a chain runs each once, in order")


@contextlib.contextmanager
def hooks(
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
    allocator: AllocatorTrace | None

    def at(self, name: str) -> Mark:
        return next(mark for mark in self.ledger.marks if mark.name == name)

    def working_bytes(self, begin: str, end: str) -> int:
        """Most alive between two moments, above what was alive at the first."""
        start = self.at(begin)
        tensors_bytes = self.ledger.peak_bytes(start, self.at(end)) - start.alive_bytes
        if self.allocator is None:
            return tensors_bytes
        return max(tensors_bytes, self.allocator.working_bytes(begin, end))

    def untracked_bytes(self) -> int:
        """What forward leaves that no operator made: plain numbers that a graph keeps."""
        if self.allocator is None:
            return 0
        span = ("start", "forward done")
        return max(0, self.allocator.gained_bytes(*span) - self.gained_bytes(*span))

    def gained_bytes(self, begin: str, end: str) -> int:
        return self.at(end).alive_bytes - self.at(begin).alive_bytes

    def seconds(self, begin: str, end: str) -> float:
        return (self.at(end).time_ps - self.at(begin).time_ps) / PS

    def recompute_s(self, begin: str, end: str) -> float:
        return (self.at(end).recompute_ps - self.at(begin).recompute_ps) / PS

    def flops(self, begin: str, end: str) -> int:
        return self.at(end).flops - self.at(begin).flops

    def recompute_flops(self, begin: str, end: str) -> int:
        return self.at(end).recompute_flops - self.at(begin).recompute_flops


def _watch_step(step: Step, chain: Chain, how: _How) -> _Watched:
    step.drop_gradients()
    ledger = Ledger(how.rates)
    trace = AllocatorTrace() if how.scratch else None
    resident_bytes = ledger.adopt(step.resident_tensors())
    seen: set[str] = set()

    def mark(name: str) -> None:
        if name not in seen:  # a recompute enters the block again
            seen.add(name)
            ledger.mark(name)
            if trace is not None:
                trace.mark(name)

    def enter(index: int, boundary: Tensor, others: Sequence[Tensor]) -> None:
        del others
        if index == 0 and boundary.requires_grad and f"enter {index}" not in seen:
            boundary.register_hook(lambda _: mark("backward of the head"))
        mark(f"enter {index}")

    def leave(index: int, output: Tensor) -> None:
        if output.requires_grad and f"leave {index}" not in seen:
            output.register_hook(lambda _: mark(f"backward {index}"))
        mark(f"leave {index}")

    with hooks(chain, enter, leave), trace or contextlib.nullcontext(), ledger:
        mark("start")
        loss = step.forward()
        mark("forward done")
        step.backward(loss)
        for index in reversed(range(len(chain))):
            mark(f"backward {index}")  # of those that no gradient reaches
        mark("backward of the head")
        del loss
        mark("end")
        step.update()
        mark("updated")
    group_bytes = torch.get_rng_state().nbytes
    step.drop_gradients()
    return _Watched(ledger, resident_bytes, group_bytes, trace)


def _after(index: int) -> str:
    """The moment at which backward of block ``index`` is over."""
    return f"backward {index - 1}" if index else "backward of the head"


def _mode(name: str, kept: _Kept, watched: _Watched, normal: _Watched, index: int) -> Mode:
    enter, leave = f"enter {index}", f"leave {index}"
    begin, end = f"backward {index}", _after(index)
    gained_bytes = watched.gained_bytes(enter, leave) - kept.output_bytes
    return Mode(
        name=name,
        # An op policy keeps tensors in a place of its own, which no hook of autograd sees.
        saved_bytes=kept.saved_bytes
        if watched is normal
        else gained_bytes + watched.group_bytes * CHECKPOINTS[name],
        keeps_input=kept.keeps_input,
        keeps_output=kept.keeps_output,
        forward_working_bytes=watched.working_bytes(enter, leave),
        backward_working_bytes=watched.working_bytes(begin, end),
        backward_flops=watched.flops(begin, end),
        recompute_flops=watched.recompute_flops(begin, end),
        recompute_s=watched.recompute_s(begin, end),
    )


def _block_cost(
    modes: tuple[Mode, ...],
    output_bytes: int,
    gradient_bytes: int,
    steps: tuple[_Watched, _Watched],
    index: int,
) -> BlockCost:
    normal, recomputed = steps
    enter, leave = f"enter {index}", f"leave {index}"
    begin, end = f"backward {index}", _after(index)
    return BlockCost(
        modes=modes,
        output_bytes=output_bytes,
        unsaved_working_bytes=recomputed.working_bytes(enter, leave),
        recompute_working_bytes=recomputed.working_bytes(begin, end),
        gradient_bytes=gradient_bytes,
        forward_flops=normal.flops(enter, leave),
        last_recompute_flops=recomputed.recompute_flops(begin, end),
        forward_s=normal.seconds(enter, leave),
        backward_s=max(0.0, normal.seconds(begin, end) - normal.recompute_s(begin, end)),
        last_recompute_s=recomputed.recompute_s(begin, end),
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
    blocks: tuple[BlockCost, ...], normal: _Watched, saved: _Saved, borders: tuple[int, ...]
) -> ChainProfile:
    input_bytes, tail_keeps_input = saved.input_bytes, saved.tail_keeps_input
    every = [block.modes[0] for block in blocks]
    last = len(blocks)
    enter, leave, done = normal.at("enter 0"), normal.at(f"leave {last - 1}"), "forward done"
    head_saved_bytes = enter.alive_bytes - normal.resident_bytes - input_bytes
    kept_bytes = _kept_bytes(blocks, input_bytes)
    handed_on = blocks[-1].output_bytes * (not every[-1].keeps_output)
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
        head_saved_bytes=head_saved_bytes + normal.untracked_bytes(),
        head_working_bytes=normal.working_bytes("start", "enter 0"),
        head_backward_working_bytes=normal.working_bytes("backward of the head", "end"),
        tail_saved_bytes=tail_saved_bytes,
        tail_keeps_input=tail_keeps_input,
        tail_working_bytes=normal.working_bytes(leave.name, done) + leave.alive_bytes - at_tail,
        tail_backward_working_bytes=normal.working_bytes(done, begin),
        tail_gradient_bytes=normal.at(begin).alive_bytes - before_blocks,
        group_bytes=normal.group_bytes,
        update_working_bytes=normal.working_bytes("end", "updated"),
        borders=borders,
        fixed_s=normal.seconds("start", "updated")
        - normal.recompute_s("start", "updated")
        - sum(block.forward_s + block.backward_s for block in blocks),
    )


def _kept_bytes(blocks: tuple[BlockCost, ...], input_bytes: int) -> int:
    """Held by the blocks when all ran normally: saved tensors, and boundaries that they keep."""
    sizes = [input_bytes, *(block.output_bytes for block in blocks)]
    every = [block.modes[0] for block in blocks]
    kept = {i for i, mode in enumerate(every) if mode.keeps_input}
    kept |= {i + 1 for i, mode in enumerate(every) if mode.keeps_output}
    return sum(mode.saved_bytes for mode in every) + sum(sizes[i] for i in kept)

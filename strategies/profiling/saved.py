"""What autograd saves in one forward of a model, by the block that runs."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from strategies.execution.chain import Chain
from strategies.execution.errors import INSTEAD, RunsBackward, Unsupported
from strategies.execution.stand_in import COMPILED, StandIn
from strategies.execution.tensors import dense_parts, storage_key, tensors_in
from strategies.profiling.ledger import unique_bytes
from strategies.profiling.standing import standing
from strategies.profiling.step import Step

_SHOWN = 12
"""Of the blocks that ran in no order."""


@dataclasses.dataclass
class Kept:
    """What autograd saves for one block."""

    saved_bytes: int
    keeps_input: bool
    keeps_output: bool
    output_bytes: int


@dataclasses.dataclass
class Saved:
    """What autograd saves in one forward of the model."""

    blocks: list[Kept]
    tail_keeps_input: bool
    head_keeps_output: bool
    input_bytes: int


class Slip:
    """What a graph holds in the place of what it saved, and nobody else: it goes when that goes.

    A block may compute what it hands to nobody, as a last state: what is saved for that is free
    again when the block has run.

    Attributes:
        tensor: what backward finds.
    """

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor | None = None) -> None:
        self.tensor = tensor

    def unpack(self) -> Tensor:
        """For a hook of autograd."""
        assert self.tensor is not None
        return self.tensor


class Slips:
    """Of what a block saved, by storage: what of it a graph still holds.

    Attributes:
        sizes: of each storage, in bytes.
    """

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}
        self._slips: dict[int, list[weakref.ref[Slip]]] = {}

    def add(self, tensor: Tensor, slip: Slip) -> None:
        """A graph saves a tensor."""
        key = storage_key(tensor)
        self.sizes[key] = unique_bytes([tensor])
        self._slips.setdefault(key, []).append(weakref.ref(slip))

    def held(self) -> dict[int, int]:
        """Bytes of each storage that a graph holds now."""
        there = (key for key, slips in self._slips.items() if any(slip() for slip in slips))
        return {key: self.sizes[key] for key in there}


def watch_saved(step: Step, chain: Chain) -> Saved:
    """List what one forward saves.

    Raises:
        Unsupported: the blocks do not run in the chain's order.
    """
    watcher = _SavedWatcher(step)
    saved_hooks = torch.autograd.graph.saved_tensors_hooks(watcher.pack, Slip.unpack)
    with hooks(chain, watcher.enter, watcher.leave), saved_hooks:
        loss = step.forward()
    del loss
    _check_order(watcher.order, len(chain))
    ends = (watcher.tail_keeps_input, watcher.head_keeps_output, watcher.input_bytes)
    return Saved(watcher.kept, *ends)


class _SavedWatcher:
    """Sorts what autograd saves by the block that runs."""

    def __init__(self, step: Step) -> None:
        self.resident = {storage_key(t) for t in step.resident_tensors()}
        self.standing = {one._cdata: weakref.ref(one) for one in standing(step)}
        self.before: set[int] = set()  # saved outside the blocks: tables and masks that they share
        self.order: list[int] = []
        self.kept: list[Kept] = []
        self.saved = Slips()
        self.inside = False
        self.boundary: tuple[int, int] = (0, 0)
        self.input_bytes = 0
        self.tail_keeps_input = self.head_keeps_output = False
        # So that no storage's address is used twice. Not the tensors: their graph holds `pack`,
        # and no collector sees a circle that runs through it.
        self.alive: list[torch.UntypedStorage] = []

    def pack(self, tensor: Tensor) -> Slip:
        key = storage_key(tensor)
        # A saved output, kept as it is, holds its own graph, and no collector sees that circle.
        slip = Slip(tensor.detach())
        self.alive += [part.untyped_storage() for part in dense_parts(tensor)]
        if not self.inside:
            self.tail_keeps_input |= bool(self.order) and key == self.boundary[0]
            self.before.add(key)
        elif key not in self.resident and key not in self.before and not self._stands(key):
            self.saved.add(tensor, slip)
        return slip

    def _stands(self, key: int) -> bool:
        """Whether somebody holds it from step to step; of what is gone, others use the key."""
        reference = self.standing.get(key)
        return reference is not None and reference() is not None

    def enter(self, index: int, boundary: Tensor, others: Sequence[Tensor]) -> None:
        self.inside, self.saved = True, Slips()
        self.order.append(index)
        if index == 0:
            self.head_keeps_output = storage_key(boundary) in self.before | self.resident
        self.alive += [part.untyped_storage() for t in others for part in dense_parts(t)]
        self.before |= {storage_key(t) for t in others}
        self.before.discard(storage_key(boundary))
        if index == 0:
            self.input_bytes = unique_bytes([boundary])
        self.boundary = (storage_key(boundary), unique_bytes([boundary]))

    def leave(self, index: int, output: Tensor) -> None:
        del index
        key, saved = storage_key(output), self.saved.held()
        inner = {k: size for k, size in saved.items() if k not in (key, self.boundary[0])}
        self.kept.append(
            Kept(
                saved_bytes=sum(inner.values()),
                keeps_input=self.boundary[0] in saved,
                keeps_output=key in saved,
                output_bytes=unique_bytes([output]),
            )
        )
        self.before.discard(self.boundary[0])
        self.boundary = (key, unique_bytes([output]))
        self.alive += [part.untyped_storage() for part in dense_parts(output)]
        self.inside = False


def nothing(_: Any) -> Any:
    """What a graph finds of which nothing was kept.

    Raises:
        RunsBackward: always.
    """
    raise RunsBackward


def _check_order(order: list[int], n_blocks: int) -> None:
    if order != list(range(n_blocks)):
        shown = f"[{', '.join(map(str, order[:_SHOWN]))}, …]" if len(order) > _SHOWN else order
        raise Unsupported(
            f"the blocks ran in the order {shown}; a chain runs each once, in order; {INSTEAD}"
        )


def check_all_ran(ran: Sequence[bool]) -> None:
    """A chain was seen to run as one; whether it does so each time.

    Raises:
        Unsupported: not all of its blocks ran in this forward.
    """
    left_out = [index for index, here in enumerate(ran) if not here]
    if left_out:
        raise Unsupported(
            f"the blocks {left_out} ran in one forward and not in another; a chain runs each once,"
            " in order"
        )


@contextlib.contextmanager
def hooks(
    chain: Chain,
    enter: Callable[[int, Tensor, Sequence[Tensor]], None],
    leave: Callable[[int, Tensor], None],
) -> Iterator[None]:
    """Call ``enter`` and ``leave`` around every block's forward.

    A block's boundary is what the block before it returned; of the first, and where the model
    computes between the two, the first argument that learns. A block in several places is entered
    in one after the other; what runs again in backward comes after all of them.

    Raises:
        Unsupported: in the forward, a block that takes or returns no tensor.
    """
    returned: list[weakref.ref[Tensor]] = []

    def before(indices: Iterator[int]) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            tensors = tensors_in((args, kwargs))
            handed_on = [t for t in tensors if any(reference() is t for reference in returned)]
            boundary = _first([*handed_on, *tensors], module, "takes")
            enter(next(indices), boundary, [t for t in tensors if t is not boundary])

        return hook

    def after(indices: Iterator[int]) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            del args, kwargs
            tensors = tensors_in(output)
            returned[:] = map(weakref.ref, tensors)
            leave(next(indices), _first(tensors, module, "returns"))

        return hook

    with contextlib.ExitStack() as stack:
        for block in dict.fromkeys(chain.blocks):
            places = [index for index, each in enumerate(chain.blocks) if each is block]
            hooked = before(itertools.cycle(places)), after(itertools.cycle(places))
            if StandIn.outermost(block) == COMPILED:
                stack.callback(_Hooked(block, *hooked).install())
                continue
            pre = block.register_forward_pre_hook(hooked[0], with_kwargs=True)
            post = block.register_forward_hook(hooked[1], with_kwargs=True)
            stack.callback(pre.remove)
            stack.callback(post.remove)
        yield


class _Hooked(StandIn):
    """Calls hooks around a block that was compiled, whose own hooks a compiler would trace."""

    def __init__(
        self, module: nn.Module, before: Callable[..., None], after: Callable[..., None]
    ) -> None:
        super().__init__(module, COMPILED)
        self.before, self.after = before, after

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.before(self.module, args, kwargs)
        output = self.original(*args, **kwargs)
        self.after(self.module, args, kwargs, output)
        return output


def _first(tensors: Sequence[Tensor], block: nn.Module, verb: str) -> Tensor:
    """The first that learns, or else the first."""
    if not tensors:
        raise Unsupported(f"{type(block).__name__} {verb} no tensor, so that its costs are unknown")
    return next((tensor for tensor in tensors if tensor.requires_grad), tensors[0])

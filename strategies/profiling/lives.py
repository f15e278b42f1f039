"""Who reads the tensors that pass between blocks, and how long the model itself holds them.

One forward in which autograd keeps nothing: what lives on, somebody else holds. So a plan that
would free a boundary is not believed where the model puts it on a list of skips, and a block that
is to run again is known to keep what else it is given.
"""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from strategies.execution.chain import Chain
from strategies.execution.errors import Unsupported
from strategies.execution.tensors import dense_parts, flat, leaves_of
from strategies.profiling.ledger import Ledger
from strategies.profiling.passed import Passed
from strategies.profiling.saved import Slip, hooks, nothing
from strategies.profiling.standing import settle, standing
from strategies.profiling.step import Step
from strategies.schedules.profile import LAST_STEP, Casts, Shared

_BEFORE = -1


@dataclasses.dataclass(eq=False)
class _Life:
    """Of one storage; places as in `Shared`."""

    size_bytes: int
    born: int
    boundary: int | None = None
    crosses: bool = False
    until: int | None = None
    inside: bool = False
    returned: bool = False
    replaced: bool = False
    is_cast: bool = False
    saved_by: set[int] = dataclasses.field(default_factory=set)
    read_by: set[int] = dataclasses.field(default_factory=set)
    between: set[int] = dataclasses.field(default_factory=set)


def watch_lives(step: Step, chain: Chain) -> Passed:
    """Watch one forward.

    Args:
        step: whose output is held as the training loop holds it.
        chain: the blocks, in the order in which they run.
    """
    settle(step)
    watcher = _Watcher(len(chain))
    watcher.adopt(step.resident_tensors())
    watcher.adopt_storages(standing(step))
    watcher.position = _BEFORE
    with contextlib.ExitStack() as stack:
        for block in dict.fromkeys(chain.blocks):
            given = block.register_forward_pre_hook(watcher.given, with_kwargs=True)
            stack.callback(given.remove)
            stack.callback(block.register_forward_hook(watcher.follow).remove)
        stack.enter_context(hooks(chain, watcher.enter, watcher.leave))
        stack.enter_context(watcher)
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(watcher.pack, nothing))
        loss = step.forward()
    watcher.position = len(chain) + 1
    passed = watcher.passed()
    del loss
    return passed


class _Watcher(Ledger):
    """Notes where every storage is born and dies.

    Attributes:
        position: of the forward: the block that was entered last; the number of blocks in the tail.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count, self.position = count, LAST_STEP
        self.inside = self.is_over = False
        self.lives: dict[int, _Life] = {}
        self.crossing: list[_Life] = []
        self.outliving: list[_Life] = []
        self.casts: list[_Life] = []
        self.taken: set[int] = set()
        self.returned: list[weakref.ref[Tensor]] = []
        self.slips: list[tuple[_Life, weakref.ref[Slip]]] = []
        self.output: _Life | None = None
        self.apart: set[int] = set()
        self.copies: set[int] = set()
        self.input_bytes: list[int] = []

    def born(self, key: int, size_bytes: int) -> None:
        """As it is; note where. With the first that follows the last block, the tail begins."""
        if self.is_over and not self.inside:
            self.position = self.count
        self.lives[key] = _Life(size_bytes, self.position, inside=self.inside)
        super().born(key, size_bytes)

    def died(self, key: int, size_bytes: int) -> None:
        """As it is; note where."""
        life = self.lives.pop(key, None)
        if life is not None:
            life.until = self.position + 1
            if self.inside and life.born == LAST_STEP:
                life.replaced = True
                self._cross(life)
            self._outlive([life])
            if life.is_cast and life.inside and life.until > life.born + 1:
                self.casts.append(life)
        super().died(key, size_bytes)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operator; note what is a weight in another dtype."""
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if func is torch.ops.aten._to_copy.default:
            weights = (life for life in self._lives(args[:1]) if life.born == LAST_STEP)
            for life, _ in zip(self._lives([out]), weights, strict=False):
                life.is_cast = True
        return out

    def _outlive(self, lives: Iterable[_Life]) -> None:
        """Of what a block made for itself, note what is there when forward is over.

        What goes before that, as weights that autocast cast, is no reason to watch every block.
        """
        own = (life for life in lives if life.inside and not life.crosses)
        self.outliving += [one for one in own if one.until is None or one.between]

    def pack(self, tensor: Tensor) -> Slip:
        """Who saves it; nothing is saved."""
        slip = Slip()
        for life in self._lives([tensor]):
            if self.inside:
                self.slips.append((life, weakref.ref(slip)))
            else:
                life.between.add(min(self.position + 1, self.count))
        return slip

    def enter(self, index: int, boundary: Tensor, others: Sequence[Tensor]) -> None:
        """A block begins."""
        self._arrive(index, boundary)
        self.position, self.inside = index, True
        for life in self._lives(others):
            if life.boundary != index:
                life.read_by.add(index)
                self._cross(life)

    def _arrive(self, index: int, boundary: Tensor) -> None:
        life = self._life(boundary)
        seen = id(boundary) in self.taken
        if index and not (seen and any(reference() is boundary for reference in self.returned)):
            self.apart.add(index)
        if index and life is not self.output:
            self.copies.add(index)
        self.input_bytes.append(life.size_bytes)
        if life.boundary is None and life.born >= (_BEFORE if index == 0 else 0):
            life.boundary = index
            self._cross(life)

    def given(self, block: nn.Module, args: Any, kwargs: Any) -> None:
        """A block is given this, of which groups see the leaves, and nothing in objects."""
        del block
        self.taken = set(map(id, flat(args, kwargs)[0]))

    def follow(self, block: nn.Module, args: Any, output: Any) -> None:
        """A block returned this; as above."""
        del block, args
        leaves = (leaf for leaf in leaves_of(output) if isinstance(leaf, Tensor))
        self.returned = [weakref.ref(leaf) for leaf in leaves]

    def leave(self, index: int, output: Tensor) -> None:
        """A block ends; what it hands on may not be what the next one takes."""
        del index
        self.inside = False
        for life in (life for life, slip in self.slips if slip()):
            life.saved_by.add(self.position)
        self.slips.clear()
        self.output = self._life(output)
        self.output.returned = True
        self._cross(self.output)
        self.is_over = self.position == self.count - 1

    def _life(self, boundary: Tensor) -> _Life:
        """Of what a block takes or returns."""
        life = next(self._lives([boundary]), None)
        if life is None:
            raise Unsupported(
                "no operator is seen to make what a block returns, as in a model that is compiled"
                " as a whole; apply the strategy first, and compile then"
            )
        return life

    def _lives(self, tensors: Iterable[Tensor]) -> Iterator[_Life]:
        for part in (part for tensor in tensors for part in dense_parts(tensor)):
            life = self.lives.get(part.untyped_storage()._cdata)
            if life is not None:
                yield life

    def _cross(self, life: _Life) -> None:
        if not life.crosses:
            life.crosses = True
            self.crossing.append(life)

    def passed(self) -> Passed:
        """All of it, when forward is over."""
        self._outlive(self.lives.values())
        return Passed(
            tuple(self.input_bytes),
            frozenset(self.apart),
            frozenset(self.copies),
            tuple(
                shared
                for number, life in enumerate([*self.crossing, *self.outliving])
                if (shared := self._shared(number, life))
            ),
            {index: self._casts(index) for index in range(self.count)},
        )

    def _casts(self, index: int) -> Casts:
        own = [life for life in self.casts if life.born == index]
        saved_bytes = sum(life.size_bytes for life in own if index in life.saved_by)
        return Casts(
            saved_bytes=saved_bytes,
            other_bytes=sum(life.size_bytes for life in own) - saved_bytes,
            until=max((life.until or 0 for life in own), default=0),
        )

    def _shared(self, number: int, life: _Life) -> Shared | None:
        """``None`` for what the chain itself accounts for: its ends, and what is resident."""
        place = life.boundary
        inside = life.inside and place is None and not life.returned
        ends = life.born == LAST_STEP or life.born == self.count - 1
        if place is None and ends and not (inside or life.replaced):
            return None
        own = set() if place is None else {place, place - 1}
        shared = Shared(
            number=number,
            size_bytes=life.size_bytes,
            boundary=place,
            born=life.born if place is None else place - 1,
            until=self.count + 2 if life.until is None else life.until,
            saved_by=tuple(sorted(life.saved_by - own)),
            read_by=tuple(sorted(life.read_by)),
            between=tuple(sorted(each for each in life.between if each > max(life.born, 0))),
            inside=inside,
        )
        return shared if place is None or _has_others(shared) else None


def _has_others(shared: Shared) -> bool:
    """Whether anybody but the blocks on both sides of a boundary has to do with it."""
    assert shared.boundary is not None
    lives_on = shared.until > shared.boundary + 1
    return lives_on or bool(shared.saved_by or shared.read_by or shared.between)

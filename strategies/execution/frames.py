"""A recompute group while it runs: what autograd saves of its blocks, and how they run again.

The frame is PyTorch's own (``torch.utils.checkpoint``, non-reentrant): random state, autocast,
early stop and determinism checks are therefore its. Its hooks lie on top while a block runs, and
nowhere between two blocks, so that each block runs at its own time, and what the model itself
computes there is saved as usual.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Generator, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import _autograd
from torch.utils.checkpoint import (
    _checkpoint_without_reentrant_generator,
    noop_context_fn,
)

from strategies.execution.examined import FORMS, examine, forget
from strategies.execution.held import save
from strategies.execution.hooks import top
from strategies.execution.met import Pair
from strategies.execution.randoms import Drawn
from strategies.execution.tensors import Spec, has_version, unflat
from strategies.storage.changes import memory_of


@dataclasses.dataclass(frozen=True)
class Given:
    """A leaf of what the frame's first block was given."""

    leaf: int


@dataclasses.dataclass(frozen=True)
class Output:
    """A leaf of what an earlier block of the frame returned."""

    call: int
    leaf: int


@dataclasses.dataclass(frozen=True)
class Held:
    """A tensor from elsewhere, kept by autograd's rules: a change in place is an error."""

    saved: Any

    @classmethod
    def of(cls, leaf: Any) -> Held | Plain:
        """Any leaf."""
        return cls(save(leaf, is_output=False)) if has_version(leaf) else Plain(leaf)


@dataclasses.dataclass(frozen=True)
class Plain:
    """What is no tensor, or one that autograd knows nothing of."""

    value: Any


Source = Given | Output | Held | Plain


@dataclasses.dataclass(frozen=True)
class BlockCall:
    """One block's run: where each leaf of its arguments comes from, and the state that it met.

    Attributes:
        run: runs the block again, in a scope, with arguments and keywords; returns the leaves of
            its output.
        sources: of the leaves of both.
        spec: how the leaves lie in them.
        drawn: the random state, if the model drew since the block before.
    """

    run: Callable[[Any, Any, Any], Sequence[Any]]
    sources: Sequence[Source]
    spec: Spec | None
    drawn: Drawn | None


class Recipe:
    """The blocks that ran in a frame, in their order: runs them again.

    Attributes:
        scope: of the recompute; given to every block.
    """

    def __init__(self, scope: Callable[[], AbstractContextManager[Any]]) -> None:
        self.scope = scope
        self.calls: list[BlockCall] = []

    def __call__(self, *arguments: Any) -> None:
        """Run them; an output is kept until the last block that wants it has run."""
        last: dict[Source, int] = {
            source: number
            for number, call in enumerate(self.calls)
            for source in call.sources
            if isinstance(source, Output)
        }
        outputs: dict[Source, Any] = {}
        with self.scope() as scope:
            for number, call in enumerate(self.calls):
                leaves = [_value(source, arguments, outputs) for source in call.sources]
                outputs = {o: value for o, value in outputs.items() if last[o] > number}
                if call.drawn is not None:
                    call.drawn.restore()
                values = call.run(scope, *unflat(leaves, call.spec))
                named = {Output(number, n): value for n, value in enumerate(values)}
                outputs |= {o: value for o, value in named.items() if o in last}
                del leaves, values, named


def _value(source: Source, arguments: Sequence[Any], outputs: dict[Source, Any]) -> Any:
    match source:
        case Given(leaf):
            return arguments[leaf]
        case Held(saved):
            return saved.unpack()
        case Plain(value):
            return value
        case Output():
            return outputs[source]


def begun(
    function: Callable[..., Any],
    leaves: Sequence[Any],
    contexts: Callable[[], Pair],
    block: nn.Module | None,
) -> Generator[None]:
    """PyTorch's frame, with its hooks laid; ``block`` is examined."""
    check = FORMS if block is None else examine(block)
    frame: Generator[None] = _checkpoint_without_reentrant_generator(
        function, True, contexts, check, False, True, *leaves
    )
    try:
        next(frame)
    finally:
        if block is not None:
            forget(check)
    return frame


class Frame:
    """A group's frame while it is open.

    Attributes:
        hooks: to be laid while a block of the group runs.
        recipe: what is recomputed; it outlives this.
    """

    def __init__(
        self,
        leaves: Sequence[Any],
        scope: Callable[[], AbstractContextManager[Any]],
        keep: AbstractContextManager[Any],
        block: nn.Module | None,
    ) -> None:
        self.recipe = Recipe(scope)
        self.around = _around()
        self.left: Drawn | None = None
        self.known: dict[Hashable, tuple[weakref.ref[Tensor], int, Source]] = {}
        self.passed: set[Source] = set()  # outputs in memory that came from elsewhere
        self.elsewhere: set[int | None] = set()  # memory of the block that runs now
        with keep:
            frame = begun(self.recipe, leaves, noop_context_fn, block)
            self.hooks = top()
            next(frame, None)  # takes the hooks away; they can be laid again
        self._learn(leaves, Given)

    def sources(self, leaves: Sequence[Any]) -> list[Source | None]:
        """Of the leaves of a block's arguments, those that come from the blocks before it."""
        return list(map(self._source, leaves))

    def continues(self, sources: Sequence[Source | None]) -> bool:
        """Whether a block that is given what comes from there continues from these blocks."""
        return any(type(each) is Output for each in sources) and self.around == _around()

    def enter(
        self,
        run: Callable[[Any, Any, Any], Sequence[Any]],
        leaves: Sequence[Any],
        known: Sequence[Source | None],
        spec: Spec | None,
    ) -> None:
        """A block begins: note how it runs again."""
        drawn = None if self.left is None else Drawn(leaves)
        changed = None if drawn is None or self.left is None or drawn.is_at(self.left) else drawn
        pairs = zip(leaves, known, strict=True)
        sources = [source or Held.of(leaf) for leaf, source in pairs]
        self.recipe.calls.append(BlockCall(run, sources, spec, changed))
        kept = zip(leaves, sources, strict=True)
        self.elsewhere = {memory_of(leaf) for leaf, source in kept if self._is_kept(source)}

    def wants(self, leaves: Sequence[int]) -> bool:
        """Whether the block's recompute would want any of these leaves as it was given them."""
        sources = self.recipe.calls[-1].sources
        return any(self._is_kept(sources[leaf]) for leaf in leaves)

    def leave(self, leaves: Sequence[Any]) -> None:
        """It ends: note what it returns."""
        call = len(self.recipe.calls) - 1
        self._learn(leaves, lambda leaf: Output(call, leaf))
        if self.elsewhere:
            memories = ((number, memory_of(leaf)) for number, leaf in enumerate(leaves))
            self.passed |= {Output(call, n) for n, m in memories if m and m in self.elsewhere}
        self.left = Drawn(leaves)

    def _is_kept(self, source: Source) -> bool:
        """Whether a recompute finds the tensor where it lies, rather than makes it again."""
        return not isinstance(source, Output) or source in self.passed

    def _learn(self, leaves: Sequence[Any], source: Callable[[int], Source]) -> None:
        for number, leaf in enumerate(leaves):
            if has_version(leaf):
                self.known[_identity(leaf)] = weakref.ref(leaf), leaf._version, source(number)

    def _source(self, leaf: Any) -> Source | None:
        """Where a tensor comes from, if it is as it was then."""
        if not has_version(leaf):
            return None
        reference, version, source = self.known.get(_identity(leaf), (lambda: None, 0, None))
        return None if reference() is None or version != leaf._version else source


def _identity(tensor: Tensor) -> Hashable:
    """Of the same values, as long as nobody writes: FSDP hands on another tensor of the memory."""
    try:
        memory = tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # sparse, or a wrapper
        return id(tensor)
    placed = tensor.storage_offset(), tensor.shape, tensor.stride()
    return memory, placed, tensor.dtype, tensor.requires_grad


def _around() -> tuple[Any, ...]:
    """Autocast, and the hooks outside: a user's own checkpoint recomputes what is in it alone."""
    kinds = {"cpu", torch._C._get_accelerator().type}
    cast = [(torch.is_autocast_enabled(k), torch.get_autocast_dtype(k)) for k in sorted(kinds)]
    return _autograd._top_saved_tensors_default_hooks(False), *cast

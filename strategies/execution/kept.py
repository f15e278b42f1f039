"""Outputs that a block keeps for its recompute, some of them elsewhere: on the host, or a disk.

In the place of PyTorch's own cache of selective checkpointing, which knows one place alone (hooks
for saved tensors do not reach it), and in 2.9 does not say what an operator returned. Operators are
told apart as there: by what they are, and how many of the kind ran before in the block. What goes
elsewhere leaves in one parcel when the block has run, and is back when its recompute begins
(`strategies.storage.overlapped`).
"""

from __future__ import annotations

import collections
import dataclasses
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten
from torch.utils.checkpoint import SAC_IGNORED_OPS

from strategies.execution.dispatch import is_portable
from strategies.storage import Tier
from strategies.storage.changes import version_of, written_in_place
from strategies.storage.layout import laid

Asked = Callable[[Any, tuple[Any, ...], dict[str, Any], Any], tuple[bool, bool]]
"""Of an operator, its arguments and what it returned: whether that is kept, and whether away."""
WRITTEN = "an output that a block keeps for its recompute"
"""In the refusal of one that was written to."""


class Part:
    """A tensor that was kept.

    Attributes:
        tensor: itself, without its graph but with its count of changes; ``None``: it is away.
        strides: how it lies in memory.
        original: what the operator returned.
        version: how often that had been written to.
    """

    __slots__ = ("original", "strides", "tensor", "version")

    def __init__(self, original: Tensor) -> None:
        with torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.ADInplaceOrView, False):
            self.tensor: Tensor | None = original.detach()
        self.strides = original.stride()
        self.original, self.version = weakref.ref(original), version_of(original)

    @property
    def is_written(self) -> bool:
        """Whether somebody wrote to it since."""
        known = (self.tensor, self.original())
        return any(tensor is not None and version_of(tensor) != self.version for tensor in known)

    def arrive(self, tensor: Tensor) -> None:
        """It is here again.

        Raises:
            RuntimeError: somebody wrote to what it was.
        """
        self.check()
        self.tensor = laid(tensor, self.strides)
        self.original, self.version = weakref.ref(self.tensor), version_of(self.tensor)

    def check(self) -> None:
        """That nobody wrote to it.

        Raises:
            RuntimeError: somebody did.
        """
        if self.is_written:
            raise written_in_place(WRITTEN)

    def take(self) -> Tensor:
        """The tensor, which is here.

        Raises:
            RuntimeError: somebody wrote to it.
        """
        self.check()
        assert self.tensor is not None
        return self.tensor


@dataclasses.dataclass(slots=True)
class Output:
    """What an operator returned: tensors as parts, all else as it is."""

    leaves: list[Any]
    spec: TreeSpec
    leaves_device: bool

    @classmethod
    def of(cls, output: Any, *, away: bool) -> Output:
        """Keep it."""
        leaves, spec = tree_flatten(output)
        parts = [Part(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return cls(parts, spec, away and is_portable(output))

    def take(self) -> Any:
        """It, as it was returned."""
        leaves = (leaf.take() if isinstance(leaf, Part) else leaf for leaf in self.leaves)
        return tree_unflatten(leaves, self.spec)

    def departing(self) -> Iterator[Part]:
        """The parts that are to leave; one that was written to stays, for that is an error."""
        for leaf in self.leaves if self.leaves_device else ():
            if isinstance(leaf, Part) and not leaf.is_written:
                yield leaf


class Cache:
    """The outputs that one call of a block keeps.

    Attributes:
        outputs: by operator.
        away: the parts that are on the tier.
        parcel: what they are there.
    """

    def __init__(self, tier: Tier) -> None:
        self.tier = tier
        self.outputs: dict[Hashable, Output] = {}
        self.away: Sequence[Part] = ()
        self.parcel: Any = None

    def send(self) -> None:
        """The block has run: what is to leave leaves."""
        parts = [part for output in self.outputs.values() for part in output.departing()]
        tensors = [part.tensor for part in parts if part.tensor is not None]
        if tensors:
            self.parcel, self.away = self.tier.put_all(tensors), parts
        for part in self.away:
            part.tensor = None

    def fetch(self) -> None:
        """Its recompute begins: all is here."""
        parts, parcel, self.away, self.parcel = self.away, self.parcel, (), None
        for part, tensor in zip(parts, self.tier.get_all(parcel) if parts else (), strict=True):
            part.arrive(tensor)


class _Numbering(TorchDispatchMode):
    """Tells operators apart as they run."""

    def __init__(self, cache: Cache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cache = cache
        self.ran: collections.Counter[Any] = collections.Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run it under its number."""
        if func in SAC_IGNORED_OPS:
            return func(*args, **(kwargs or {}))
        self.ran[func] += 1
        return self.run((func, self.ran[func]), func, args, kwargs or {})

    def run(self, key: Hashable, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run it."""
        raise NotImplementedError


class Keeping(_Numbering):
    """Of forward: keeps what is asked for."""

    def __init__(self, cache: Cache, asked: Asked) -> None:
        super().__init__(cache)
        self.asked = asked

    def run(self, key: Hashable, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run it, and keep what it returns or not."""
        output = func(*args, **kwargs)
        kept, away = self.asked(func, args, kwargs, output)
        if kept:
            self.cache.outputs[key] = Output.of(output, away=away)
        return output


class Giving(_Numbering):
    """Of recompute: an operator whose output was kept does not run, and that is let go."""

    def __enter__(self) -> Any:
        """All is here from now on."""
        self.cache.fetch()
        return super().__enter__()  # type: ignore[no-untyped-call]

    def run(self, key: Hashable, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run it, or give what it gave."""
        output = self.cache.outputs.pop(key, None)
        return func(*args, **kwargs) if output is None else output.take()

    def __exit__(self, *exception: Any) -> None:
        """What the recompute did not come to is let go, too."""
        self.cache.outputs.clear()
        super().__exit__(*exception)  # type: ignore[no-untyped-call]

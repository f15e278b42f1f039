"""Whether a block that runs again computes what it computed: looked at until it did so once.

A recompute sees what it cannot be told of: a global number, a generator that the block does not
hold, a parameter that the block writes to, a context around its call. PyTorch compares shapes
alone. So what the first forward saves for backward is summed up, and so is what its recompute
saves; where the sums are others, the gradient would be wrong.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import checkpoint as torch_checkpoint

from strategies.execution.errors import Unsupported

_CHECKS: dict[str, Any] = torch_checkpoint._allowed_determinism_checks_to_fns
_look = operator.attrgetter("shape", "dtype", "device")
_STRIDE = 7  # of a second sum, which sees values that changed places
_TOLERANCE = 1e-6  # of magnitudes: kernels that reduce in another order
_ROUNDINGS = 4.0  # of every element, by such kernels, in directions that are nobody's
_same: weakref.WeakSet[nn.Module] = weakref.WeakSet()
_others: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def is_examined(block: nn.Module) -> bool:
    """Whether it ran again, and computed what it had computed."""
    return block in _same and block not in _others


@functools.lru_cache(maxsize=1024)
def _only(form: Any) -> Any:
    return form


def _form(tensor: Tensor) -> Any:
    """What PyTorch compares, too; one object for all that are alike.

    A checkpoint keeps a form of each tensor, and where blocks are small, the garbage collector
    takes as long to visit what is kept as the blocks take to run.
    """
    form = _look(tensor)
    try:
        return _only(form)
    except TypeError:  # a size that is a symbol
        return form


FORMS = f"{__name__} forms"
"""The name of what is compared of a block that was examined."""
_CHECKS[FORMS] = _form


def examine(block: nn.Module) -> str:
    """What PyTorch's checkpoint, made next, compares, by its name; to be forgotten then."""
    compared = functools.partial(_Saved.of, block)
    name = f"{__name__} {id(compared)}"
    _CHECKS[name] = compared
    return name


def forget(check: str) -> None:
    """A checkpoint has been made, and knows what it compares."""
    del _CHECKS[check]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _Saved:
    """A tensor that a block saves for backward.

    Attributes:
        block: or the first of several that run again together.
        form: shape, dtype and device.
        sums: of magnitudes, of values, and, where they lie in order, of every seventh; empty: not
            to be compared.
        tolerance: of the sum of magnitudes, by which two sums may differ.
        learns: a gradient goes through it, in forward: the others may be statistics, which are
            frozen, or room for what an operator writes later.
    """

    block: nn.Module
    form: Any
    sums: tuple[float, ...]
    tolerance: float
    learns: bool

    @classmethod
    def of(cls, block: nn.Module, tensor: Tensor) -> _Saved:
        """PyTorch calls it with each tensor, in forward and again in recompute."""
        form, sums = _form(tensor), _sums(tensor)
        return cls(block, form, sums, _tolerance(tensor), tensor.requires_grad)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Saved):
            return False
        if self.form == other.form and not (self.learns and self.sums and other.sums):
            return True
        if self.form != other.form or not self._is_near(other):
            _others.add(self.block)
            raise Unsupported(
                f"{type(self.block).__name__}, run again, computes something else than it did: it"
                " depends on what a recompute cannot see (a global number or generator, what the"
                " model sets elsewhere or around the call, a parameter that it writes to); give it"
                " that as an argument or a buffer, or leave these blocks out"
            )
        _same.add(self.block)
        return True

    def _is_near(self, other: _Saved) -> bool:
        one, two = self.sums, other.sums
        if not all(map(math.isfinite, (*one, *two))):  # nothing to be told of it
            return True
        most = self.tolerance * one[0]
        return all(abs(a - b) <= most for a, b in zip(one, two, strict=False))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self.form)


def _sums(tensor: Tensor) -> tuple[float, ...]:
    """Three numbers; none where a mode would see how they come about."""
    if not tensor.is_floating_point() or not _is_plain(tensor):
        return ()
    kind = torch.float32 if tensor.dtype.itemsize < 4 else tensor.dtype  # another makes a copy
    with torch.no_grad(), torch.autocast(tensor.device.type, enabled=False):
        magnitudes = torch.linalg.vector_norm(tensor, 1, dtype=kind)
        return magnitudes.item(), *(part.sum(dtype=kind).item() for part in _parts(tensor))


def _tolerance(tensor: Tensor) -> float:
    """Roundings of single elements add up as their root, an element that is another does not."""
    if not tensor.is_floating_point() or not tensor.numel():
        return _TOLERANCE
    return max(_TOLERANCE, _ROUNDINGS * torch.finfo(tensor.dtype).eps / math.sqrt(tensor.numel()))


def _parts(tensor: Tensor) -> list[Tensor]:
    values = tensor.detach()
    return [values, values.view(-1)[::_STRIDE]] if values.is_contiguous() else [values]


def _is_plain(tensor: Tensor) -> bool:
    """Whether it has values, and nobody watches what is computed."""
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided
    watched = torch._C._len_torch_dispatch_stack() or torch._C._functorch.peek_interpreter_stack()
    return plain and tensor.device.type != "meta" and not watched

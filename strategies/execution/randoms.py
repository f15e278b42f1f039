"""Random numbers beside PyTorch's own: Python's, numpy's, and generators that a block holds.

To ask Python or numpy for the state of its shared generator costs as much as a small block. So the
state is read where it lies in memory: both are Mersenne twisters of 624 words and a position.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import random
import sys
from collections.abc import Callable
from typing import Any

import torch

Restore = Callable[[], None]
_BYTES = 4 * 625


def own_state(generator: Any) -> Restore | None:
    """Puts a generator back to where it is now; ``None`` for what is no generator."""
    if isinstance(generator, torch.Generator):
        return functools.partial(generator.set_state, generator.get_state())
    if isinstance(generator, random.Random):
        return functools.partial(generator.setstate, generator.getstate())
    numpy = sys.modules.get("numpy.random")
    if numpy and isinstance(generator, numpy.RandomState):
        return functools.partial(generator.set_state, generator.get_state())
    if numpy and isinstance(generator, numpy.Generator):
        bits = generator.bit_generator
        return functools.partial(setattr, bits, "state", bits.state)
    return None


def _python() -> Any:
    """The state of `random`: position and words as they lie behind the object's head, and a rest."""
    shared = random._inst  # type: ignore[attr-defined]
    return ctypes.string_at(id(shared) + object.__basicsize__, _BYTES), shared.gauss_next


def _set_python(state: Any) -> None:
    raw, following = state
    position, *words = memoryview(raw).cast("I")
    random.setstate((3, (*words, position), following))


def _is_readable() -> bool:
    """Whether Python's generator lies there, and is read right."""
    before = random.getstate()
    try:
        state = _python()
        random.random()
        _set_python(state)
        return random.getstate() == before
    except (AttributeError, TypeError, ValueError):
        return False
    finally:
        random.setstate(before)


if not _is_readable():
    _python, _set_python = random.getstate, random.setstate


def _numpy() -> bytes:
    """A mark of the state of `numpy.random`: all but a normal number that may be left over."""
    module = sys.modules.get("numpy.random.mtrand")
    if module is None:
        return b""
    return ctypes.string_at(module._rand._bit_generator.ctypes.state_address, _BYTES)


@dataclasses.dataclass(frozen=True)
class Shared:
    """Where the generators are that all share.

    Attributes:
        python: the state of Python's.
        numpy: a mark of numpy's.
        numpy_state: puts numpy's back, if it was asked for.
    """

    python: Any
    numpy: bytes
    numpy_state: Restore | None

    @classmethod
    def now(cls, *, numpy: bool) -> Shared:
        """As they are.

        Args:
            numpy: whether numpy's may have to be put back.
        """
        state = own_state(sys.modules["numpy.random.mtrand"]._rand) if numpy else None
        return cls(_python(), _numpy(), state)

    def moved(self) -> tuple[bool, bool]:
        """Whether Python's and numpy's are elsewhere by now."""
        return self.python != _python(), self.numpy != _numpy()

    def restore_python(self) -> None:
        """Put Python's back."""
        _set_python(self.python)

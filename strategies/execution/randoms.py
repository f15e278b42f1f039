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

Restore = Callable[[], object]
_BYTES = 4 * 625


def is_generator(value: Any) -> bool:
    """Whether it is a generator of random numbers, with a state of its own."""
    numpy = sys.modules.get("numpy.random")
    kinds = (numpy.RandomState, numpy.Generator) if numpy else ()
    return isinstance(value, (torch.Generator, random.Random, *kinds))


def own_state(generator: Any) -> Restore:
    """Puts a generator back to where it is now."""
    if isinstance(generator, torch.Generator):
        return functools.partial(generator.set_state, generator.get_state())
    if isinstance(generator, random.Random):
        return functools.partial(generator.setstate, generator.getstate())
    if hasattr(generator, "get_state"):  # numpy's older kind
        return functools.partial(generator.set_state, generator.get_state())
    bits = generator.bit_generator
    return functools.partial(setattr, bits, "state", bits.state)


def _python() -> Any:
    """The state of `random`: position and words, which lie behind the head, and a number more."""
    shared: Any = random._inst
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
        random.getrandbits(32)
        _set_python(state)
        return random.getstate() == before
    except (AttributeError, TypeError, ValueError):
        return False
    finally:
        random.setstate(before)


if not _is_readable():
    _python, _set_python = random.getstate, random.setstate


def _numpy() -> bytes:
    """A mark of the state of `numpy.random`: its words, and the object that holds a number more."""
    module = sys.modules.get("numpy.random.mtrand")
    if module is None:
        return b""
    shared, head = module._rand, object.__basicsize__
    held = ctypes.string_at(id(shared) + head, type(shared).__basicsize__ - head)
    return ctypes.string_at(shared._bit_generator.ctypes.state_address, _BYTES) + held


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
        module = sys.modules.get("numpy.random.mtrand")
        state = own_state(module._rand) if numpy and module else None
        return cls(_python(), _numpy(), state)

    def moved(self) -> tuple[bool, bool]:
        """Whether Python's and numpy's are elsewhere by now; not by being loaded meanwhile."""
        return self.python != _python(), bool(self.numpy) and self.numpy != _numpy()

    def restore(self) -> None:
        """Put them back, numpy's if it was asked for."""
        _set_python(self.python)
        if self.numpy_state:
            self.numpy_state()

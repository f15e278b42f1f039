"""Random numbers: PyTorch's shared states; Python's, numpy's, and generators that a block holds.

To ask Python or numpy for the state of its shared generator costs as much as a small block. So of
blocks that are known not to draw, a mark is compared: the position and a word, where they lie in
memory. Both are Mersenne twisters of 624 words: a draw moves the position, or renews the words.
"""

from __future__ import annotations

import ctypes
import functools
import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import get_device_states, set_device_states

Restore = Callable[[], object]
Marks = tuple[int, int, float | None]
_HEAD = object.__basicsize__
_LAST_WORD = 4 * 623  # the position lies behind it
_INSTANCE: Any = random._inst
_PYTHON = ctypes.c_uint64.from_address(id(_INSTANCE) + _HEAD)


class Drawn:
    """PyTorch's random state on the CPU and on the devices of some tensors."""

    __slots__ = ("cpu", "devices")

    def __init__(self, leaves: Sequence[Any]) -> None:
        away = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not leaf.is_cpu]
        self.cpu = torch.default_generator.get_state()
        self.devices = get_device_states(*away) if away else ([], [])

    def is_at(self, other: Drawn) -> bool:
        """Whether it is the same; by no operator, which a mode might see or refuse."""
        mine, others = (self.cpu, *self.devices[1]), (other.cpu, *other.devices[1])
        return len(mine) == len(others) and all(map(_alike, mine, others))

    def restore(self) -> None:
        """Set it."""
        torch.set_rng_state(self.cpu)
        if self.devices[0]:
            set_device_states(*self.devices)


def _alike(one: Tensor, other: Tensor) -> bool:
    mine, others = (ctypes.string_at(each.data_ptr(), each.nbytes) for each in (one, other))
    return mine == others


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


def marks() -> Marks:
    """A position and a word of Python's and of numpy's shared generator, and Python's spare one."""
    module = sys.modules.get("numpy.random.mtrand")
    numpy = 0 if module is None else _numpy_word(module._rand._bit_generator).value
    return _PYTHON.value, numpy, _INSTANCE.gauss_next


def _word(address: int) -> ctypes.c_uint64:
    """The word there, read whenever its value is asked for."""
    return ctypes.c_uint64.from_address(address)


@functools.lru_cache(maxsize=1)
def _numpy_word(bits: Any) -> ctypes.c_uint64:
    """The last of a numpy generator's words; to ask for its address takes long."""
    return _word(bits.ctypes.state_address + _LAST_WORD)


def _states() -> tuple[Any, Any]:
    """All of both, comparable."""
    module = sys.modules.get("numpy.random.mtrand")
    if module is None:
        return random.getstate(), None
    kind, words, *rest = module._rand.get_state()
    return random.getstate(), (kind, tuple(words.tolist()), *rest)


def _is_readable() -> bool:
    """Whether a draw of Python's changes its mark: it lies elsewhere than in CPython if not."""
    before, mark = random.getstate(), marks()
    random.getrandbits(32)
    moved = marks() != mark
    random.setstate(before)
    return moved and marks() == mark


READABLE = _is_readable()


class Shared:
    """Where the generators are that all share.

    Args:
        known: their marks then; without, where they are now.
        full: whether they may have to be put back.
    """

    __slots__ = ("marks", "states")

    def __init__(self, known: Marks | None = None, *, full: bool = False) -> None:
        self.marks = marks() if known is None else known
        self.states = _states() if full or not READABLE else None

    def moved(self) -> bool:
        """Whether one is elsewhere by now; not by being loaded meanwhile."""
        if self.states is None:
            now, (python, numpy, gauss) = marks(), self.marks
            return now != self.marks and now != (python, numpy or now[1], gauss)
        python_state, numpy_state = _states()
        loaded = self.states[1] is not None
        return bool(python_state != self.states[0] or (loaded and numpy_state != self.states[1]))

    def tell(self) -> bool:
        """Find out from where they are where they were; whether that could be told.

        A draw of Python's moves the position alone until the words are used up. Numpy keeps the
        second of a pair of normal numbers where its mark does not show it.
        """
        numpy_moved = bool(self.marks[1]) and marks()[1] != self.marks[1]
        (kind, words, _), numpy_state = _states()
        mark, _, gauss = self.marks
        word, position = mark >> 32, mark & 0xFFFFFFFF
        if numpy_moved or words[0] != word or position > words[-1] or sys.byteorder != "little":
            return False
        self.states = (kind, (*words[:-1], position), gauss), numpy_state
        return True

    def restore(self) -> None:
        """Put them back."""
        assert self.states is not None
        python, numpy = self.states
        random.setstate(python)
        if numpy is not None:
            sys.modules["numpy.random.mtrand"]._rand.set_state(numpy)

"""Sixty-four bits that stand for a tensor, made where the tensor is.

A copy of every gradient of every pass would double what is measured; a digest takes one read. It is
a multilinear hash: each word of the tensor times a random odd number of its position, summed modulo
2⁶⁴, with type and shape. Tensors that differ anywhere, be it in the sign of a zero, have one digest
once in 2³² times or less (Carter and Wegman 1979, universal hashing).
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

_CHUNK = 1 << 15  # words: two buffers of them stay in a core's cache
_CHUNK_OF_ACCELERATORS = 1 << 24
_MODULUS = 1 << 64
_STEP = 0x9E3779B97F4A7C15  # odd: a chunk cannot stand for its neighbour
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

Digests = Mapping[str, int | None]


def digest(tensor: Tensor) -> int:
    """Of the bits, the type and the shape."""
    with torch.no_grad():
        words = _words(tensor)
        size = _CHUNK if words.device.type == "cpu" else _CHUNK_OF_ACCELERATORS
        sums = [_sum(part) for part in words.split(size)]
        numbers = torch.stack(sums).tolist() if sums else []
    total = zlib.crc32(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    for number in numbers:
        total = (total * _STEP + number) % _MODULUS
    return total


def digests(named: Iterable[tuple[str, Tensor | None]]) -> dict[str, int | None]:
    """By name; ``None`` where there is no tensor."""
    return {name: None if value is None else digest(value) for name, value in named}


def unlike(one: Digests, other: Digests) -> list[str]:
    """Names whose digests differ, or that only one has."""
    return [n for n in {**one, **other} if (n in one, one.get(n)) != (n in other, other.get(n))]


def _words(tensor: Tensor) -> Tensor:
    """The bits as whole numbers of the tensor's own size."""
    flat = tensor.detach().contiguous().flatten()
    if flat.is_complex():
        flat = torch.view_as_real(flat).flatten()
    return flat.view(_WORDS[flat.element_size()])


def _sum(words: Tensor) -> Tensor:
    return (words * _multipliers(len(words), words.device)).sum()


def _multipliers(count: int, device: torch.device) -> Tensor:
    size = _CHUNK if device.type == "cpu" else _CHUNK_OF_ACCELERATORS
    return _all_multipliers(size, device)[:count]


@functools.lru_cache(maxsize=2)
def _all_multipliers(count: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(_STEP >> 1)
    low, high = -(1 << 63), (1 << 63) - 1
    return torch.randint(low, high, (count,), generator=generator).bitwise_or_(1).to(device)

"""Data without downloads: the bytes of the Python standard library's own source files."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.workloads.base import Attention, Batch, SizedWorkload

BYTE_VALUES = 256
_STRIDE = 1_000_003  # a prime, so that successive seeds start far apart whatever the corpus size


@functools.cache
def corpus() -> bytes:
    """The top-level ``*.py`` files of the standard library, in name order.

    Raises:
        FileNotFoundError: this Python keeps no source files (a zipped or stripped library).
    """
    folder = Path(os.__file__).parent
    # Files that are not standard modules (sitecustomize, _sysconfigdata_…) differ by machine.
    paths = [p for p in sorted(folder.glob("*.py")) if p.stem in sys.stdlib_module_names]
    data = b"".join(path.read_bytes() for path in paths)
    if not data:
        raise FileNotFoundError(f"no standard library source files in {folder} to use as data")
    return data


def window(count: int, seed: int) -> bytes:
    """``count`` consecutive bytes of the corpus from a start set by ``seed``, wrapping round."""
    data = corpus()
    start = seed * _STRIDE % len(data)
    copies = -(-(start + count) // len(data))
    return (data * copies)[start : start + count]


def labels(count: int, classes: int, seed: int) -> Tensor:
    """The bytes as class labels, int64 ``[count]`` from 0 to ``min(classes, 256) - 1``."""
    return _uint8(count, seed).long() % classes


def tokens(batch: int, seq: int, seed: int) -> Tensor:
    """Byte tokens.

    Returns:
        int64 ``[batch, seq + 1]`` with values 0 to 255: inputs and, one later, targets.
    """
    return _uint8(batch * (seq + 1), seed).long().view(batch, seq + 1)


def floats(shape: tuple[int, ...], seed: int) -> Tensor:
    """The same bytes as float32 numbers from −1 to 1, in the given shape."""
    return _uint8(math.prod(shape), seed).float().div(127.5).sub(1.0).view(shape)


def _uint8(count: int, seed: int) -> Tensor:
    # A copy: torch.frombuffer ignores FakeTensorMode, and mixing the two is an error.
    return torch.tensor(np.frombuffer(window(count, seed), dtype=np.uint8), device="cpu")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextWorkload(SizedWorkload):
    """A language model that predicts the next byte.

    Attributes:
        seq: Tokens per example.
        heads: Attention heads; must divide ``dim``.
        vocab: Rows of the embedding, at least 256; bytes use the first 256 ids.
        attention: The attention kernel.
    """

    seq: int
    heads: int
    vocab: int = BYTE_VALUES
    attention: Attention = "math"

    def make_batch(self) -> Batch:
        """Inputs and targets, each int64 ``[batch, seq]`` with its own storage."""
        ids = tokens(self.batch, self.seq, self.seed)
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy of the next byte, in nats."""
        ids, targets = batch
        return F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())

    def validate(self) -> None:
        """Raise ``ValueError`` when heads, dim and vocab do not fit together."""
        check_heads(self.dim, self.heads)
        if self.vocab < BYTE_VALUES:
            raise ValueError(f"vocab must be at least {BYTE_VALUES} for bytes, not {self.vocab}")


def check_heads(dim: int, heads: int) -> None:
    """Raise ``ValueError`` unless ``heads`` divides ``dim``."""
    if dim % heads:
        raise ValueError(f"heads must divide dim: {heads} heads do not divide dim {dim}")

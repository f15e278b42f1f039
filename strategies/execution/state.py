"""What a block's forward changes besides making its output, so that its recompute can be the same.

A recompute must meet what forward met, and leave what it finds: buffers that are written or replaced,
counters, caches and lists among a module's attributes, generators of random numbers. What a forward
changed is found by comparing; it is put back for the recompute, and afterwards everything is as
before. Running statistics, on which no output depends in training, are left to
`strategies.execution.contexts.FrozenStatistics`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import operator
import sys
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.batchnorm import _NormBase

from strategies.execution.errors import Unsupported
from strategies.execution.randoms import Restore, Shared, own_state

_OWN = frozenset(nn.Module().__dict__) - {"training"}
_MISSING = object()
Place = tuple[dict[str, Any], str]

_WRITTEN: weakref.WeakKeyDictionary[nn.Module, set[str]] = weakref.WeakKeyDictionary()
"""Tensors that modules write in place; known from the first forward of each."""
_DRAWING: weakref.WeakSet[nn.Module] = weakref.WeakSet()
"""Blocks that draw from numpy's shared generator."""

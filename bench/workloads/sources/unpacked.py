"""Simulated batches hold one sequence a row: a library that looks at values is told so."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from unittest import mock

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_leaves

from bench.workloads.base import Batch

_MODULE = "transformers.masking_utils"
_QUESTION = "find_packed_sequence_indices"
_POSITIONS = "position_ids"


def unpacked(batch: Batch) -> contextlib.AbstractContextManager[object]:
    """Tells models of transformers that rows are not packed, while a batch is simulated.

    They look at the values of positions to find out. Simulated ones have none, so that every model
    would build a mask, and its attention another kernel than where it runs. A batch that brings its
    own positions may be packed, and is left to them.
    """
    module = sys.modules.get(_MODULE)
    if not hasattr(module, _QUESTION) or not _is_simulated(batch):
        return contextlib.nullcontext()
    if isinstance(batch, Mapping) and _POSITIONS in batch:
        return contextlib.nullcontext()
    return mock.patch.object(module, _QUESTION, _nothing_packed)


def _nothing_packed(*_args: object, **_kwargs: object) -> None:
    """The answer. No ``Mock``: that remembers its calls, and would keep their positions alive."""


def _is_simulated(batch: Batch) -> bool:
    leaves = (leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor))
    return isinstance(next(leaves, None), FakeTensor)

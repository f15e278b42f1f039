"""The generators of random numbers that everyone shares: PyTorch's, Python's and numpy's."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor

_NUMPY_SEEDS = 1 << 32


def seed_all(seed: int) -> None:
    """Of torch, of Python and of numpy: layers are dropped by any of them."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % _NUMPY_SEEDS)


def states(device: torch.device | None = None) -> tuple[Tensor, ...]:
    """Of torch (and of an accelerator), of Python and of numpy, comparable to the bit."""
    own = [torch.get_rng_state()]
    if device is not None and device.type != "cpu":
        own.append(torch.get_device_module(device).get_rng_state())
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    words = numpy_state["state"]
    numpy_words = torch.from_numpy(np.append(words["key"], words["pos"]).astype(np.int64))
    return *own, torch.tensor(random.getstate()[1]), numpy_words

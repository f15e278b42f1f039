"""How a kept boundary rests between forward and backward: a codec on a tier."""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from strategies.storage.changes import memory_of, version_of, written_in_place
from strategies.storage.codecs import CODECS, Codec, Encoded, Raw
from strategies.storage.layout import laid
from strategies.storage.overlapped import Overlapped
from strategies.storage.tiers import TIERS, Device, Disk, Host, Remote, Tier

__all__ = [
    "CODECS",
    "TIERS",
    "Codec",
    "Device",
    "Disk",
    "Host",
    "Overlapped",
    "Raw",
    "Remote",
    "Storage",
    "Tier",
]


@dataclasses.dataclass(frozen=True)
class Storage:
    """A codec (what the bytes are) on a tier (where they are)."""

    codec: Codec = dataclasses.field(default_factory=Raw)
    tier: Tier = dataclasses.field(default_factory=Device)

    def __str__(self) -> str:
        return f"{self.codec.name} on {self.tier}"

    @property
    def everywhere(self) -> bool:
        """Whether every top-level group's boundary rests here, or those that a schedule names."""
        return not isinstance(self.tier, Overlapped)

    @contextlib.contextmanager
    def keep(self, boundary: Sequence[Any]) -> Iterator[None]:
        """While active, tensors that autograd saves and that share ``boundary``'s memory rest here.

        Other saved tensors (a mask, rotary tables) are shared by every block; moving them would
        only make copies. What does not lie in memory of its own (a sparse or a jagged tensor) stays
        where it is. As for any saved tensor, a change in place is an error.
        """
        kept = {memory for t in boundary if (memory := memory_of(t)) is not None}

        def pack(tensor: Tensor) -> Any:
            stored = self.store(tensor) if memory_of(tensor) in kept else tensor
            return Watched(stored, tensor)

        with torch.autograd.graph.saved_tensors_hooks(pack, Watched.unpacked):
            yield

    def store(self, tensor: Tensor) -> Stored:
        """Encode and place one tensor."""
        encoded = self.codec.encode(tensor)
        parts = tuple(self.tier.put(part) for part in encoded.parts)
        return Stored(self, dataclasses.replace(encoded, parts=()), parts, tensor.stride())

    def device_bytes(self, tensor: Tensor) -> int:
        """Bytes that ``tensor`` would take on its own device at rest."""
        if not self.tier.on_device:
            return 0
        parts = self.codec.encode(torch.zeros_like(tensor)).parts
        return sum(part.numel() * part.element_size() for part in parts)


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor at rest."""

    storage: Storage
    encoded: Encoded
    parts: tuple[Any, ...]
    strides: tuple[int, ...]

    def restore(self) -> Tensor:
        """The tensor again: same shape, strides, dtype and device; same values if exact."""
        parts = tuple(self.storage.tier.get(part) for part in self.parts)
        return laid(self.encoded.decode(parts), self.strides)


class Watched:
    """What a hook keeps of a tensor: PyTorch leaves it to hooks to see changes in place."""

    def __init__(self, packed: Stored | Tensor, tensor: Tensor) -> None:
        self.packed = packed
        self.version, self.tensor = version_of(tensor), weakref.ref(tensor)

    def unpacked(self) -> Tensor:
        """The tensor as it was.

        Raises:
            RuntimeError: it was written to since.
        """
        tensor = self.tensor()
        if tensor is not None and version_of(tensor) != self.version:
            raise written_in_place(
                f"a boundary of shape {list(tensor.shape)} is at version {tensor._version};"
                f" expected version {self.version} instead"
            )
        return self.packed.restore() if isinstance(self.packed, Stored) else self.packed

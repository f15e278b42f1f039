"""Codecs: what the bytes of a kept boundary are.

Each is a frozen dataclass of its parameters with one verb, ``encode(tensor) -> Encoded``. Tensors
that are not floating point, or that the codec would not make smaller, are kept as they are.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A tensor's parts and how to put them together again."""

    parts: tuple[Tensor, ...]
    decode: Callable[[tuple[Tensor, ...]], Tensor]


@dataclasses.dataclass(frozen=True)
class Codec(abc.ABC):
    """What the bytes are."""

    name: ClassVar[str]
    exact: ClassVar[bool] = False

    def encode(self, tensor: Tensor) -> Encoded:
        """Parts that rest, and the function that restores the tensor from them."""
        if not tensor.is_floating_point() or not self.shrinks(tensor):
            return Encoded((tensor,), _only)
        return self.compress(tensor)

    def shrinks(self, tensor: Tensor) -> bool:
        """Whether the encoded form is smaller."""
        return self.bits_per_value() < 8 * tensor.element_size()

    @abc.abstractmethod
    def bits_per_value(self) -> float:
        """Bits that one value takes at rest."""

    @abc.abstractmethod
    def relative_error(self) -> float:
        """‖x̂ − x‖ / ‖x‖ to expect of a vector without structure."""

    @abc.abstractmethod
    def compress(self, tensor: Tensor) -> Encoded:
        """Encode a floating-point tensor."""


def _only(parts: tuple[Tensor, ...]) -> Tensor:
    return parts[0]


@dataclasses.dataclass(frozen=True)
class Raw(Codec):
    """The tensor itself."""

    name: ClassVar[str] = "raw"
    exact: ClassVar[bool] = True

    def bits_per_value(self) -> float:
        """As many as the tensor has: never smaller."""
        return math.inf

    def relative_error(self) -> float:
        """None."""
        return 0.0

    def compress(self, tensor: Tensor) -> Encoded:
        """The tensor itself."""
        return Encoded((tensor,), _only)


@dataclasses.dataclass(frozen=True)
class _Cast:
    """Decoder: back to the original dtype."""

    dtype: torch.dtype

    def __call__(self, parts: tuple[Tensor, ...]) -> Tensor:
        return parts[0].to(self.dtype)


@dataclasses.dataclass(frozen=True)
class Fp16(Codec):
    """Half precision: 11 bits of significand; values beyond ±65504 are clamped, not infinite."""

    name: ClassVar[str] = "fp16"

    def bits_per_value(self) -> float:
        """Sixteen."""
        return 16

    def relative_error(self) -> float:
        """Of rounding to 11 bits, in root mean square, values evenly between two powers of two.

        The error is 2⁻¹¹ / √3 of the power below, and the value √(7/3) of it.
        """
        return 2**-11 / math.sqrt(7)

    def compress(self, tensor: Tensor) -> Encoded:
        """Round each value to the nearest half."""
        largest = torch.finfo(torch.float16).max
        return Encoded((tensor.clamp(-largest, largest).half(),), _Cast(tensor.dtype))


@dataclasses.dataclass(frozen=True)
class Bf16(Codec):
    """Brain float: the range of fp32 with 8 bits of significand."""

    name: ClassVar[str] = "bf16"

    def bits_per_value(self) -> float:
        """Sixteen."""
        return 16

    def relative_error(self) -> float:
        """Of rounding to 8 bits; see `Fp16`."""
        return 2**-8 / math.sqrt(7)

    def compress(self, tensor: Tensor) -> Encoded:
        """Round each value to the nearest bfloat16."""
        return Encoded((tensor.bfloat16(),), _Cast(tensor.dtype))


@dataclasses.dataclass(frozen=True)
class _Dequantise:
    """Decoder of `Grouped`: level × scale of its group."""

    shape: torch.Size
    dtype: torch.dtype
    nibbles: bool

    def __call__(self, parts: tuple[Tensor, ...]) -> Tensor:
        levels, scale = parts
        if self.nibbles:
            levels = torch.stack((levels & 15, levels >> 4), dim=-1).flatten(-2).to(torch.int8) - 8
        values = (levels * scale).to(self.dtype)  # in fp32: halves would round twice
        return values.flatten()[: self.shape.numel()].view(self.shape)


@dataclasses.dataclass(frozen=True)
class Grouped(Codec):
    """Symmetric integer quantisation with one fp32 scale per ``group`` consecutive values.

    Block-wise scaling as in ActNN (Chen et al. 2021, arXiv 2104.14129, §4) and 8-bit optimizers
    (Dettmers et al. 2022, arXiv 2110.02861, §2.1), with a linear grid: ``scale = max|x| / levels``.
    """

    group: int = 64
    levels: ClassVar[int]

    def __post_init__(self) -> None:
        if self.group < 2 or self.group % 2:
            raise ValueError(f"group must be an even number of at least 2, not {self.group}")

    def shrinks(self, tensor: Tensor) -> bool:
        """Counts the last group whole."""
        padded = math.ceil(tensor.numel() / self.group) * self.group
        return padded * self.bits_per_value() < tensor.numel() * 8 * tensor.element_size()

    def relative_error(self) -> float:
        """A level's width over √12; the last level is the largest of ``group`` normal values.

        That value is about √(2 ln group) standard deviations.
        """
        return math.sqrt(2 * math.log(self.group)) / (self.levels * math.sqrt(12))

    def compress(self, tensor: Tensor) -> Encoded:
        """Quantise; the last group is padded with zeros. NaN or infinity spoils all of a group."""
        flat = tensor.flatten()
        rows = torch.nn.functional.pad(flat, (0, -flat.numel() % self.group)).view(-1, self.group)
        scale = rows.abs().amax(dim=1, keepdim=True).float() / self.levels
        scale = torch.where(scale == 0, 1.0, scale)
        levels = (rows / scale).round_().clamp_(-self.levels, self.levels)
        decode = _Dequantise(tensor.shape, tensor.dtype, nibbles=self.levels < 8)
        return Encoded((self.narrow(levels), scale), decode)

    @abc.abstractmethod
    def narrow(self, levels: Tensor) -> Tensor:
        """Whole-numbered floats [groups, group] in the fewest bytes."""


@dataclasses.dataclass(frozen=True)
class Int8(Grouped):
    """One byte a value: levels −127 … 127."""

    name: ClassVar[str] = "int8"
    levels: ClassVar[int] = 127

    def bits_per_value(self) -> float:
        """Eight, and the group's share of its scale."""
        return 8 + 32 / self.group

    def narrow(self, levels: Tensor) -> Tensor:
        """A byte each."""
        return levels.to(torch.int8)


@dataclasses.dataclass(frozen=True)
class Int4(Grouped):
    """Half a byte a value, two in one: levels −7 … 7."""

    name: ClassVar[str] = "int4"
    levels: ClassVar[int] = 7

    def bits_per_value(self) -> float:
        """Four, and the group's share of its scale."""
        return 4 + 32 / self.group

    def narrow(self, levels: Tensor) -> Tensor:
        """Neighbours share a byte, the first in the low half."""
        shifted = (levels + 8).to(torch.uint8)
        return shifted[:, 0::2] | (shifted[:, 1::2] << 4)


@dataclasses.dataclass(frozen=True)
class _Unproject:
    """Decoder of `Projection`: the transpose of the same seeded matrix."""

    codec: Projection
    width: int

    def __call__(self, parts: tuple[Tensor, ...]) -> Tensor:
        with torch.autocast(parts[0].device.type, enabled=False):
            return parts[0] @ self.codec.matrix(self.width, parts[0]).mT


@dataclasses.dataclass(frozen=True)
class Projection(Codec):
    """Random projection of the last dimension onto ``ratio`` of it, and back by the transpose.

    The columns are orthonormal (a seeded Gaussian matrix, orthogonalised), so what is restored is
    the orthogonal projection of the activation: of a vector with no structure, relative error
    √(1 − ratio). The matrix is made again in backward rather than kept.
    """

    name: ClassVar[str] = "projection"
    ratio: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio must be above 0 and at most 1, not {self.ratio}")

    def bits_per_value(self) -> float:
        """Depends on the tensor's own width; see `shrinks`."""
        return 0

    def shrinks(self, tensor: Tensor) -> bool:
        """A scalar has nothing to project; a full-rank projection saves nothing."""
        return tensor.dim() > 0 and math.ceil(self.ratio * tensor.shape[-1]) < tensor.shape[-1]

    def relative_error(self) -> float:
        """What lies outside of the subspace: √(1 − ratio)."""
        return math.sqrt(1 - self.ratio)

    def compress(self, tensor: Tensor) -> Encoded:
        """``x @ Q`` with Q of shape [d, ⌈ratio · d⌉]."""
        width = tensor.shape[-1]
        with torch.autocast(tensor.device.type, enabled=False):  # it would change the dtype
            return Encoded((tensor @ self.matrix(width, tensor),), _Unproject(self, width))

    def matrix(self, width: int, like: Tensor) -> Tensor:
        """Q, the same for the same seed and width; random state elsewhere is not touched."""
        generator = torch.Generator(device="cpu").manual_seed(self.seed)
        size = (width, math.ceil(self.ratio * width))
        gaussian = torch.randn(size, generator=generator, device="cpu", dtype=torch.float32)
        orthonormal: Tensor = torch.linalg.qr(gaussian).Q
        return orthonormal.to(device=like.device, dtype=like.dtype)


CODECS: dict[str, type[Codec]] = {c.name: c for c in (Raw, Fp16, Bf16, Int8, Int4, Projection)}

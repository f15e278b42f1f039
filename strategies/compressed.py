"""Keep boundary activations in fewer bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from strategies.contract.floor import Floor
from strategies.contract.layered import Layered
from strategies.contract.strategy import Strategy
from strategies.execution.chain import Chain
from strategies.storage import CODECS, Codec, Raw, Storage
from strategies.storage.codecs import Grouped, Projection


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compressed(Layered):
    """Boundaries rest compressed and are decompressed in backward, then recomputed from.

    The gradient is that of a slightly different activation. Its error is measured, and has a floor
    (`strategies.contract.floor.Floor.of_stored`) that follows from what the codec does to a tensor
    (``relative_error`` of each in `strategies.storage.codecs`) and from how many boundaries rest: a
    gradient below it is wrong, not approximate. Groups of values that share a scale are those of
    ActNN (Chen et al. 2021, arXiv 2104.14129).

    Attributes:
        codec: ``fp16``, ``bf16``, ``int8``, ``int4`` or ``projection``.
        group: consecutive values that share a scale (int8, int4).
        ratio: kept fraction of the last dimension (projection).
        seed: of the random matrix (projection).
        over: the strategy that chooses the boundaries.
    """

    textbook_memory: ClassVar[str | None] = "checkpoints × ½ (FP16) or × ¼ (INT8)"

    shown: ClassVar[tuple[str, ...]] = ("codec",)

    codec: str = "bf16"
    group: int = 64
    ratio: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.codec not in CODECS or self.codec == Raw.name:
            valid = ", ".join(name for name in CODECS if name != Raw.name)
            raise ValueError(f"compressed: codec must be one of {valid}, not {self.codec!r}")
        self.make_codec()  # checks its parameters

    def make_codec(self) -> Codec:
        """The codec with its parameters."""
        cls = CODECS[self.codec]
        if issubclass(cls, Grouped):
            return cls(group=self.group)
        if issubclass(cls, Projection):
            return cls(ratio=self.ratio, seed=self.seed)
        return cls()

    @property
    def exact(self) -> bool:
        """Never: that is the trade."""
        return False

    def floor(self, chain: Chain) -> Floor:
        """Of the codec's error in every block's boundary."""
        return Floor.of_stored(self.make_codec().relative_error(), len(chain))

    def storage(self) -> Storage:
        """The codec, on the tier of the strategy below."""
        below = super().storage() or Storage()
        return dataclasses.replace(below, codec=self.make_codec())

    @classmethod
    def grid(cls) -> Sequence[Strategy]:
        """Every codec."""
        return tuple(cls(codec=name) for name in CODECS if name != Raw.name)

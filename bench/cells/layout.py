"""How ranks share a model: sharded parameters, split matrix products, split sequences. Data alone."""

from __future__ import annotations

import dataclasses
import re

NONE = "none"
_PART = re.compile(r"(fsdp2)(-mixed)?(-keep)?|(tp)([0-9]*)(-sp)?")
_EXAMPLES = "fsdp2, fsdp2-mixed, fsdp2-keep, tp, tp-sp, fsdp2+tp8, fsdp2-mixed+tp8-sp"


@dataclasses.dataclass(frozen=True)
class Layout:
    """Ranks as a grid: so many shards, each of so many ranks that split every matrix product.

    Attributes:
        shards: ranks that FSDP2 shards parameters over; 1: it does not.
        tensor: ranks that share one matrix product, as Megatron-LM does; they see one batch.
        sequence: between the products, each of them holds a part of the sequence.
        mixed: FSDP2 gathers weights in bf16 and reduces gradients in fp32; weights rest in fp32.
        reshard: FSDP2 frees a block's gathered weights after its forward.
    """

    shards: int = 1
    tensor: int = 1
    sequence: bool = False
    mixed: bool = False
    reshard: bool = True

    @property
    def ranks(self) -> int:
        """All of them."""
        return self.shards * self.tensor

    @classmethod
    def parse(cls, text: str, ranks: int) -> Layout:
        """``fsdp2+tp8-sp`` on so many ranks.

        Raises:
            ValueError: unknown words, or numbers that do not fit; says what is valid.
        """
        parts = [_PART.fullmatch(part.strip()) for part in text.split("+")]
        sharded = [part for part in parts if part and part[1]]
        split = [part for part in parts if part and part[4]]
        if None in parts or max(len(sharded), len(split)) > 1:
            raise ValueError(f"ranks share a model as in {_EXAMPLES}, not {text!r}")
        tensor = _tensor(split[0][5], ranks, alone=not sharded) if split else 1
        if ranks % tensor or (not sharded and tensor != ranks):
            raise ValueError(f"{text} does not fit {ranks} ranks: {tensor} split a product")
        return cls(
            shards=ranks // tensor,
            tensor=tensor,
            sequence=bool(split and split[0][6]),
            mixed=bool(sharded and sharded[0][2]),
            reshard=not (sharded and sharded[0][3]),
        )


def _tensor(text: str, ranks: int, *, alone: bool) -> int:
    """How many split a product: the number, or all ranks where nothing else shares the model."""
    if not text and not alone:
        raise ValueError("beside fsdp2, tp takes the number of ranks that split a product: tp8")
    return max(1, int(text or ranks))

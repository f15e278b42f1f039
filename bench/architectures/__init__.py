"""The catalogue: real architectures, each tiny; what is not installed is listed all the same."""

from __future__ import annotations

from bench.architectures.base import Architecture, Batch, Built
from bench.architectures.decoders import DECODERS
from bench.architectures.diffusers import DIFFUSERS
from bench.architectures.encoders import ENCODERS
from bench.architectures.joined import JOINED
from bench.architectures.own import OWN
from bench.architectures.pairs import PAIRS
from bench.architectures.sound import SOUND
from bench.architectures.timm import TIMM
from bench.architectures.torchvision import TORCHVISION
from bench.architectures.vision import VISION

CATALOGUE: dict[str, Architecture] = {
    **OWN,
    **DECODERS,
    **ENCODERS,
    **PAIRS,
    **VISION,
    **SOUND,
    **JOINED,
    **TIMM,
    **TORCHVISION,
    **DIFFUSERS,
}

__all__ = ["CATALOGUE", "Architecture", "Batch", "Built", "get"]


def get(name: str) -> Architecture:
    """An architecture by name.

    Raises:
        ValueError: there is none; says which there are.
    """
    if name not in CATALOGUE:
        raise ValueError(f"no model {name!r}; there are {', '.join(CATALOGUE)}")
    return CATALOGUE[name]

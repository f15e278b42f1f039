"""The catalogue: real architectures, each tiny; what is not installed is listed all the same."""

from __future__ import annotations

from collections.abc import Sequence

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

__all__ = ["CATALOGUE", "Architecture", "Batch", "Built", "get", "named"]


def get(name: str) -> Architecture:
    """An architecture by name.

    Raises:
        ValueError: there is none; says which there are.
    """
    if name not in CATALOGUE:
        raise ValueError(f"no model {name!r}; there are {', '.join(CATALOGUE)}")
    return CATALOGUE[name]


def named(names: Sequence[str], libraries: Sequence[str]) -> list[str]:
    """Those names and all of those libraries, each once; all there are, if none is named.

    Raises:
        ValueError: there is no such model, or no model of such a library.
    """
    known = {architecture.library for architecture in CATALOGUE.values()}
    if unknown := set(libraries) - known:
        raise ValueError(f"no models of {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    chosen = {name: get(name).library for name in names}
    chosen |= {name: a.library for name, a in CATALOGUE.items() if a.library in libraries}
    return list(chosen if names or libraries else CATALOGUE)

"""Whether a generated file still says what it said, where its bytes may differ.

Texts and SVG are compared by bytes: they are made so that no CPU changes them. A PNG is not: its
pixels are blended in floats and packed by a library of another version. It is the same figure as
the SVG beside it, so it is enough that it shows the same picture.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

LEVELS = 48
"""Of 255: two pixels further apart than this differ; blending at another last bit moves one."""

SHARE = 0.002
"""Of all pixels, may differ: two grid lines that fall on the neighbouring pixel, and no more."""


def same(suffix: str, one: bytes, other: bytes) -> bool:
    """Equal bytes; or, of a PNG, equal size and pixels that differ hardly anywhere."""
    return one == other or (suffix == ".png" and same_picture(one, other))


def same_picture(one: bytes, other: bytes) -> bool:
    """The two show the same; what is no picture is like nothing."""
    first, second = _pixels(one), _pixels(other)
    if first is None or second is None or first.shape != second.shape:
        return False
    apart = np.abs(first - second).max(axis=-1) > LEVELS
    return float(apart.mean()) <= SHARE


def _pixels(data: bytes) -> NDArray[np.int16] | None:
    """Height × width × RGBA, each 0 to 255."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGBA"), dtype=np.int16)
    except (UnidentifiedImageError, OSError):
        return None

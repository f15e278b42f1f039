"""Tables of this package: what was measured or read of kinds of device, by compute capability."""

from __future__ import annotations

from importlib import resources
from typing import TypeVar

import msgspec


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one kind of device.

    Attributes:
        compute_capability: of the kind.
    """

    compute_capability: tuple[int, int]


Of = TypeVar("Of", bound=Row)


def rows(file: str, kind: type[Of]) -> list[Of]:
    """All rows of a file beside this one, by compute capability."""
    data = (resources.files("bench.devices") / file).read_bytes()
    return sorted(msgspec.json.decode(data, type=list[kind]), key=_capability)  # type: ignore[valid-type]


def _capability(row: Row) -> tuple[int, int]:
    return row.compute_capability

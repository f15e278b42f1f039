"""How memory and recompute grow with depth: series of cells that differ only in ``layers``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import pandas as pd

from bench.report.frame import ATTENTION, FLASH, Row, rows
from bench.report.stats import Fit, fit_power

LAYERS = "layers"
DEPTHS = 4  # fewer points than this say little about an exponent


@dataclasses.dataclass(frozen=True)
class Series:
    """One strategy at several depths of one workload, all else equal; rows by depth."""

    rows: tuple[Row, ...]
    chain: str  # what is equal over a table or figure: setting and options but the attention

    @property
    def first(self) -> Row:
        """The shallowest cell."""
        return self.rows[0]

    @property
    def layers(self) -> tuple[int, ...]:
        """Its depths, ascending."""
        return tuple(row["workload_options"][LAYERS] for row in self.rows)

    def at(self, layers: int) -> Row | None:
        """The cell at one depth."""
        return next((r for r in self.rows if r["workload_options"][LAYERS] == layers), None)

    def fit(self, column: str) -> Fit | None:
        """The power law of ``column`` over depth, when enough depths have it."""
        points = [(d, r[column]) for d, r in zip(self.layers, self.rows, strict=True)]
        points = [(depth, value) for depth, value in points if value is not None]
        if len({depth for depth, _ in points}) < DEPTHS:
            return None
        return fit_power([d for d, _ in points], [v for _, v in points])


def series(frame: pd.DataFrame) -> list[Series]:
    """Every series of at least `DEPTHS` depths that ended well, in a stable order."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows(frame):
        if row["status"] == "ok" and isinstance(row["workload_options"].get(LAYERS), int):
            found.setdefault((chain_of(row), row["label"]), []).append(row)
    made = [Series(tuple(sorted(r, key=_depth)), chain) for (chain, _), r in found.items()]
    long = [s for s in made if len(set(s.layers)) >= DEPTHS]
    return sorted(long, key=lambda s: (s.first["modelled"], s.chain, *order(s.first)))


def by_chain(found: Sequence[Series]) -> list[list[Series]]:
    """Series that share a table and a figure."""
    chains: dict[str, list[Series]] = {}
    for one in found:
        chains.setdefault(one.chain, []).append(one)
    return list(chains.values())


def order(row: Row) -> tuple[bool, bool, str]:
    """`none` first, math attention before flash, then by label."""
    flash = row["workload_options"].get(ATTENTION) == FLASH
    return row["strategy"] != "none", flash, row["label"]


def chain_of(row: Row) -> str:
    """What a row shares with the others of its chain, as JSON."""
    key = json.loads(row["family"])
    key["options"].pop(LAYERS, None)
    return json.dumps(key, sort_keys=True)


def _depth(row: Row) -> int:
    return int(row["workload_options"][LAYERS])

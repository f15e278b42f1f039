"""How memory and recompute grow with depth: series of cells that differ only in ``layers``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import pandas as pd

from bench.report.frame import ATTENTION, FLASH, REFERENCE, Row, rows
from bench.report.stats import Fit, fit_offset, fit_power

LAYERS = "layers"
DEPTHS = 4  # fewer points than this say little about an exponent


@dataclasses.dataclass(frozen=True)
class Series:
    """One strategy at several depths of one workload, all else equal.

    Attributes:
        rows: its cells, by depth.
        chain: what is equal over a table or figure: setting and options but the attention.
        base: the cells of `none` with math attention in the same chain, `rows` itself for that
            one; empty where there are none.
    """

    rows: tuple[Row, ...]
    chain: str
    base: tuple[Row, ...] = ()

    @property
    def first(self) -> Row:
        """The shallowest cell."""
        return self.rows[0]

    @property
    def layers(self) -> tuple[int, ...]:
        """Its depths, ascending."""
        return tuple(_depth(row) for row in self.rows)

    def at(self, layers: int) -> Row | None:
        """The cell at one depth."""
        return next((row for row in self.rows if _depth(row) == layers), None)

    def fit(self, column: str) -> Fit | None:
        """The power law of ``column`` over depth, when enough depths have it."""
        depths, values = _points(self.rows, column)
        return fit_power(depths, values) if len(depths) >= DEPTHS else None

    def constant(self, column: str) -> float:
        """What `none` has at any depth: head, tail and loss are no part of what grows."""
        fit = fit_offset(*_points(self.base, column))
        return fit.constant if fit else 0.0

    def growth(self, column: str) -> Fit | None:
        """The power law of what ``column`` has above `constant`.

        A constant weighs more at small depths, and flattens a plain fit. For `none` both are
        fitted together; the others have its constant subtracted. One that does not rise above
        it is fitted as it is.
        """
        depths, values = _points(self.rows, column)
        plain = self.fit(column)
        if plain and self.base is self.rows:
            return fit_offset(depths, values)
        constant = self.constant(column)
        if plain is None or min(values) <= constant:
            return plain
        fit = fit_power(depths, [value - constant for value in values])
        return fit and dataclasses.replace(fit, constant=constant)


def _points(rows: Sequence[Row], column: str) -> tuple[list[int], list[int]]:
    points = [row for row in rows if row[column] is not None]
    return [_depth(row) for row in points], [row[column] for row in points]


def series(frame: pd.DataFrame) -> list[Series]:
    """Every series of at least `DEPTHS` depths that ended well, in a stable order."""
    by_label: dict[tuple[str, str], list[Row]] = {}
    for row in rows(frame):
        if row["status"] == "ok" and isinstance(row["workload_options"].get(LAYERS), int):
            by_label.setdefault((chain_of(row), row["label"]), []).append(row)
    by_depth = {key: tuple(sorted(cells, key=_depth)) for key, cells in by_label.items()}
    long = {key: cells for key, cells in by_depth.items() if len(set(map(_depth, cells))) >= DEPTHS}
    base = {chain: cells for (chain, label), cells in long.items() if label == REFERENCE}
    all_series = [Series(cells, chain, base.get(chain, ())) for (chain, _), cells in long.items()]
    return sorted(all_series, key=lambda s: (s.first["modelled"], s.chain, *order(s.first)))


def by_chain(all_series: Sequence[Series]) -> list[list[Series]]:
    """Series that share a table and a figure."""
    chains: dict[str, list[Series]] = {}
    for one in all_series:
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

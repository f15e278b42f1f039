"""``python -m bench published``: published GPU figures, modelled again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.store import published as points
from bench.store.json_store import RESULTS

if TYPE_CHECKING:
    from bench.store.published import Point


def published(
    name: Annotated[
        list[str] | None, typer.Option("--name", help="A point; all, if none is named.")
    ] = None,
    results: Annotated[
        Path, typer.Option("--results", help="The folder that holds the points.")
    ] = RESULTS,
) -> None:
    """Model every published measurement of GPU memory again, on fake tensors.

    Takes some five minutes for all. `tables` makes the table and the figure.
    """
    from bench.published.modelling import modelled

    for point in _chosen(list(points.read_all(results)), name or [], results):
        started = time.perf_counter()
        found = modelled(point)
        typer.echo(line(found, time.perf_counter() - started), err=True)
        if found != point:
            typer.echo(f"wrote {points.write(found, results)}")


def _chosen(known: list[Point], names: list[str], results: Path) -> list[Point]:
    if not known:
        raise ValueError(f"no points under {results / points.FOLDER}")
    if unknown := set(names) - {point.name for point in known}:
        listed = ", ".join(point.name for point in known)
        raise ValueError(f"no point {', '.join(sorted(unknown))}; there are {listed}")
    return [point for point in known if not names or point.name in names]


def line(point: Point, elapsed_s: float) -> str:
    """One point, for the person who waits."""
    assert point.modelled is not None
    assert point.error_fraction is not None
    return (
        f"{point.name}: published {point.published:,.10g} {point.unit}, modelled"
        f" {point.modelled:,.10g} ({100 * point.error_fraction:+.2f} %), {elapsed_s:.1f} s"
    )

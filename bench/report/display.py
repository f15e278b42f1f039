"""What a reader sees: units, labels, colours, escaping. The only place where units are converted.

Records hold bytes and seconds. Here a megabyte is 1e6 bytes, and a missing value is a dash.
"""

from __future__ import annotations

import dataclasses
import html
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from bench.report.rounding import steady

if TYPE_CHECKING:
    from bench.report.frame import Row

MISSING = "—"
MEGABYTE = 1_000_000
UNITS = "MB is 10⁶ bytes"

# Wong (2011), Nature Methods 8:441, without its yellow, which is lost on white; then two of Tol's.
COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#882255", "#999933",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")  # 9 and 8 share no factor: 72 pairs
REFERENCE = "none"


@dataclasses.dataclass(frozen=True)
class Look:
    """Colour and marker of a strategy, in every figure."""

    colour: str
    marker: str


def looks(strategies: Iterable[str]) -> dict[str, Look]:
    """A look for each name, from its place among the sorted names; the reference is black."""
    names = sorted(set(strategies) - {REFERENCE})
    pairs = {n: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, n in enumerate(names)}
    return {REFERENCE: Look("#000000", "*")} | {n: Look(*pair) for n, pair in pairs.items()}


def megabytes(count: float | None) -> str:
    """Bytes as megabytes: ``281.4``; small ones with more digits."""
    if count is None:
        return MISSING
    amount = steady(count / MEGABYTE)
    if abs(amount) >= 10:
        return f"{amount:,.1f}"
    return f"{amount:.2f}" if abs(amount) >= 0.1 or not amount else f"{amount:.2g}"


def times(ratio: float | None) -> str:
    """A ratio as ``0.42×``."""
    return MISSING if ratio is None else f"{steady(ratio):.2f}×"


def amount(count: float | None, ratio: float | None) -> str:
    """Bytes as megabytes, with their ratio if there is one: ``281.4 (0.42×)``."""
    return megabytes(count) if ratio is None else f"{megabytes(count)} ({times(ratio)})"


def percent(part: float | None, decimals: int = 1, sign: str = "") -> str:
    """A part of one as ``74.9 %``; with ``sign="+"`` as ``+74.9 %``. Nothing has no minus."""
    if part is None:
        return MISSING
    amount = round(steady(100 * part), decimals) + 0.0
    return f"{amount:{sign}.{decimals}f} %"


def interval(row: Row) -> str:
    """Step ratio of a row, ``1.31× [1.28, 1.35]``, with ``†`` where it is unstable.

    What was not measured but estimated says so: ``1.33× modelled``.
    """
    if row["step_ratio"] is None:
        modelled = row["modelled_step_x_reference"]
        return MISSING if modelled is None else f"{times(modelled)} modelled"
    ends = row["step_ratio_low"], row["step_ratio_high"]
    return estimate(row["step_ratio"], *ends, unstable=row["unstable"])


def estimate(
    ratio: float, low: float | None, high: float | None, *, unstable: bool, digits: int = 2
) -> str:
    """``1.31× [1.28, 1.35]``; ``†`` where it is unstable; ``[no interval]`` of too few rounds."""
    known = low is not None and high is not None
    ends = f"[{low:.{digits}f}, {high:.{digits}f}]" if known else "[no interval]"
    return f"{ratio:.{digits}f}× {ends}" + (" †" if unstable else "")


def abbreviate(plan: str, limit: int = 32) -> str:
    """A plan cut in the middle, between tokens: ``[0 1] [2 3] … [14 15]``."""
    if len(plan) <= limit:
        return plan
    tokens = plan.split()
    head, tail = 0, len(tokens)
    # Two tokens in front for one behind: the pattern shows at the start, the end only closes it.
    while len(" ".join((*tokens[:head], *tokens[tail:]))) < limit - 8 and head < tail:
        head, tail = (head + 1, tail) if head <= 2 * (len(tokens) - tail) else (head, tail - 1)
    return " ".join((*tokens[:head], "…", *tokens[tail:]))


def cell(text: str | None) -> str:
    """Text for a Markdown table cell: no pipe, line break or markup of its own."""
    if text is None or not text.strip():
        return MISSING
    flat = html.escape(" ".join(text.split()), quote=False).replace("\\", "\\\\")
    return re.sub(r"([|`*\[\]~]|(?<!\w)_|_(?!\w))", r"\\\1", flat)


def code(text: str | None) -> str:
    """Text for a Markdown table cell, as code. A pipe ends a cell even there."""
    if text is None or not text.strip():
        return MISSING
    flat = " ".join(text.split()).replace("|", r"\|")
    fence = "``" if "`" in flat else "`"
    pad = " " if "`" in flat else ""
    return f"{fence}{pad}{flat}{pad}{fence}"


def table(header: Sequence[str], body: Iterable[Sequence[str]], *, right: int = 0) -> str:
    """A Markdown table of cells already escaped; the last ``right`` columns are right-aligned."""
    rules = ["---"] * (len(header) - right) + ["---:"] * right
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rules, *body)) + "\n"


def dates(rows: Sequence[Row]) -> str:
    """The days on which ``rows`` were measured, from the records: ``2026-01-02 to 2026-01-05``."""
    days = sorted({str(row["started_at_utc"])[:10] for row in rows})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def where(rows: Sequence[Row]) -> str:
    """Device, torch version and date of ``rows``: what every table and figure must say."""
    devices = sorted({device(row) for row in rows})
    versions = sorted({str(row["torch_version"]) for row in rows})
    return f"{', '.join(devices)}; torch {', '.join(versions)}; {dates(rows)}"


class Placed(Protocol):
    """A study of a real device."""

    @property
    def device(self) -> str: ...  # noqa: D102 - as of its kind
    @property
    def device_name(self) -> str: ...  # noqa: D102
    @property
    def torch_version(self) -> str: ...  # noqa: D102
    @property
    def started_at_utc(self) -> str: ...  # noqa: D102


def places(studies: Iterable[Placed]) -> list[Row]:
    """Studies of real devices, for `where`."""
    return [
        {
            "device": study.device,
            "device_name": study.device_name,
            "modelled": False,
            "torch_version": study.torch_version,
            "started_at_utc": study.started_at_utc,
        }
        for study in studies
    ]


def device(row: Row) -> str:
    """``cpu (AMD EPYC)``, and *modelled* when no such device was there."""
    name = row["device"] if row["device"] == row["device_name"] else None
    text = name or f"{row['device']} ({row['device_name']})"
    return f"modelled {text}" if row["modelled"] else str(text)


def options(row: Row, *, without: Sequence[str] = ()) -> str:
    """Workload options as ``batch=4, layers=8``, sorted."""
    options = sorted((k, v) for k, v in row["workload_options"].items() if k not in without)
    return ", ".join(f"{key}={value}" for key, value in options)


def sized(count: float) -> str:
    """Bytes as ``12.3 GB``, ``45.6 MB``, ``7.8 kB`` (powers of ten) or ``90 B``."""
    unit, name = next(((u, n) for u, n in _UNITS if abs(count) >= u), (1.0, "B"))
    return f"{steady(count / unit):.{0 if unit == 1 else 1}f} {name}"


_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))

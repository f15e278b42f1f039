"""Everything under ``tables/`` and ``figures/``, and the README's table, from the raw records.

All of it is rendered in memory first, so that a failure leaves what was there. The bytes depend on
the records and on the versions of numpy, pandas, seaborn and matplotlib, which is why continuous
integration, where ``check`` runs, pins them exactly.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import pandas as pd

from bench import claims, studies
from bench.records import RESULTS, Record, decode, read_all, write_atomically
from bench.report import budgets, growth, modelled, tables
from bench.report import readme as readmes
from bench.report.figures import figures
from bench.report.frame import build
from bench.studies import Study

Read = TypeVar("Read")

TABLES = "tables"
FIGURES = "figures"
README = Path("README.md")
SUFFIXES = frozenset({".csv", ".json", ".md", ".png", ".svg"})
TEXT = frozenset({".csv", ".json", ".md"})


def readme_of(results: Path) -> Path | None:
    """The README here, if these are the results that it shows."""
    return README if README.exists() and results.resolve() == RESULTS.resolve() else None


def render(
    records: list[Record], results: Path, readme: Path | None, found: Sequence[Study] = ()
) -> dict[Path, bytes]:
    """Every generated file with its bytes, by path.

    Args:
        records: of cells.
        results: the folder to write tables and figures into.
        readme: the README with markers, or ``None`` to leave it out.
        found: budget studies; without any, nothing is made of them.

    Raises:
        ValueError: a record whose rounds cannot be paired, or a README without markers.
    """
    frame = build(records)
    texts = _texts(frame) if records else {}
    if found:
        texts |= {"budgets.md": budgets.markdown(found), "budgets.csv": budgets.csv(found)}
    files = {results / TABLES / name: text.encode() for name, text in texts.items()}
    files |= {results / FIGURES / name: data for name, data in figures(frame, found).items()}
    if readme is not None:
        folder = Path(os.path.relpath(results / TABLES, readme.parent)).as_posix()
        block = readmes.block(frame, folder, studied=bool(found))
        files[readme] = readmes.inject(readme.read_bytes().decode(), block).encode()
    return files


def _texts(frame: pd.DataFrame) -> dict[str, str]:
    """Tables of the records, by file name."""
    return {
        "tradeoff.md": tables.tradeoff(frame),
        "tradeoff.csv": tables.tradeoff_csv(frame),
        "depth.md": growth.table(frame),
        "depth.csv": growth.csv(frame),
        "calibration.md": modelled.calibration(frame),
        "simulator.md": modelled.simulator(frame),
        "failures.md": tables.failures(frame),
        "claims.md": claims.markdown(frame),
        "claims.json": claims.as_json(frame),
    }


def regenerate(results: Path, readme: Path | None, *, check: bool = False) -> list[str]:
    """Write every generated file, and delete generated files that no record asks for any more.

    With ``check`` nothing on disk changes.

    Args:
        results: The folder that holds ``raw`` and ``budgets``.
        readme: The README with markers, or ``None`` to leave it out.
        check: Compare instead of writing.

    Returns:
        What was written or deleted, a line each; with ``check`` how the files on disk differ from
        what the records say: unified diffs of texts, a line for others. Empty means up to date.

    Raises:
        ValueError: no records, or one that cannot be reported.
    """
    bad: list[str] = []
    records = _strictly(_record_paths(results), decode, bad) if check else list(read_all(results))
    found = (
        _strictly(studies.paths(results), studies.decode, bad)
        if check
        else list(studies.read_all(results))
    )
    if not records and not found:
        raise ValueError(f"no records under {results / 'raw'}: measure something first")
    files = render(records, results, readme, found)
    stale = sorted(set(_generated(results)) - set(files))
    return bad + _differences(files, stale) if check else _write(files, stale)


def _record_paths(results: Path) -> list[Path]:
    return sorted((results / "raw").rglob("*.json"))


def _strictly(paths: Sequence[Path], read: Callable[[bytes], Read], bad: list[str]) -> list[Read]:
    """What files hold, without setting any aside: a check must not rename what it checks."""
    found = []
    for path in paths:
        try:
            found.append(read(path.read_bytes()))
        except ValueError as error:
            bad.append(f"{path}: {error}")
    return found


def _generated(results: Path) -> list[Path]:
    folders = (results / TABLES, results / FIGURES)
    return [
        path
        for folder in folders
        if folder.is_dir()
        for path in folder.iterdir()
        if path.suffix in SUFFIXES and not path.name.startswith(".")
    ]


def _write(files: Mapping[Path, bytes], stale: list[Path]) -> list[str]:
    done = []
    for path, data in files.items():
        if not path.is_file() or path.read_bytes() != data:
            write_atomically(path, data)
            done.append(f"wrote {path}")
    for path in stale:
        path.unlink()
        done.append(f"deleted {path}")
    return done


def _differences(files: Mapping[Path, bytes], stale: list[Path]) -> list[str]:
    found = [_difference(path, data) for path, data in files.items()]
    return [text for text in found if text] + [f"{path}: stale, no record asks" for path in stale]


def _difference(path: Path, data: bytes) -> str:
    old = path.read_bytes() if path.is_file() else None
    if old == data:
        return ""
    if old is None:
        return f"{path}: missing"
    if path.suffix not in TEXT:
        return f"{path}: differs"
    was, now = (text.decode("utf-8", "replace").splitlines(keepends=True) for text in (old, data))
    return "".join(difflib.unified_diff(was, now, str(path), f"{path} (regenerated)"))

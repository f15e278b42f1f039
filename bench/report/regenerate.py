"""Everything under ``tables/`` and ``figures/``, and the README's table, from the raw records.

All of it is rendered in memory first, so that a failure leaves what was there. Texts and SVG depend
on the records and on the versions of numpy, pandas, seaborn and matplotlib, which is why continuous
integration, where ``check`` runs, pins them exactly; they do not depend on the CPU (`rounding`,
`canonical`). A PNG is compared by what it shows (`likeness`).
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path

from bench.report import published, validations
from bench.report import readme as readmes
from bench.report.figures import figures
from bench.report.frame import build
from bench.report.likeness import same
from bench.report.stored import Stored, read, read_strictly
from bench.store.json_store import RESULTS, write_atomically

TABLES = "tables"
FIGURES = "figures"
README = Path("README.md")
SUFFIXES = frozenset({".csv", ".json", ".md", ".png", ".svg"})
TEXT = frozenset({".csv", ".json", ".md"})


def readme_of(results: Path) -> Path | None:
    """The README here, if these are the results that it shows."""
    return README if README.exists() and results.resolve() == RESULTS.resolve() else None


def render(stored: Stored, results: Path, readme: Path | None) -> dict[Path, bytes]:
    """Every generated file with its bytes, by path.

    Args:
        stored: what is to be shown.
        results: the folder to write tables and figures into.
        readme: the README with markers, or ``None`` to leave it out.

    Raises:
        ValueError: a record whose rounds cannot be paired, or a README without markers.
    """
    frame = build(stored.records)
    texts = stored.tables()
    files = {results / TABLES / name: text.encode() for name, text in texts.items()}
    images = figures(
        frame,
        stored.budgets,
        stored.solvers,
        stored.promises,
        covered=stored.coverage,
        points=stored.published,
        clusters=stored.clusters,
        pays=stored.pays,
        contests=stored.contests,
    )
    files |= {results / FIGURES / name: data for name, data in images.items()}
    if readme is not None:
        folder = Path(os.path.relpath(results / TABLES, readme.parent)).as_posix()
        said = [published.sentence(stored.published)] if stored.published else []
        said += [validations.sentence(stored.validations)] if stored.validations else []
        block = readmes.block(frame, folder, {Path(name).stem for name in texts}, said)
        files[readme] = readmes.inject(readme.read_bytes().decode(), block).encode()
    return files


def regenerate(results: Path, readme: Path | None, *, check: bool = False) -> list[str]:
    """Write every generated file, and delete generated files that no record asks for any more.

    With ``check`` nothing on disk changes.

    Args:
        results: The folder that holds ``raw`` and the folders of studies.
        readme: The README with markers, or ``None`` to leave it out.
        check: Compare instead of writing.

    Returns:
        What was written or deleted, a line each; with ``check`` how the files on disk differ from
        what the records say: unified diffs of texts, a line for others. Empty means up to date.

    Raises:
        ValueError: no records, or one that cannot be reported.
    """
    bad: list[str] = []
    stored = read_strictly(results, bad) if check else read(results)
    if stored.empty():
        raise ValueError(f"no records under {results / 'raw'}: measure something first")
    files = render(stored, results, readme)
    stale = sorted(set(_generated(results)) - set(files))
    return bad + _differences(files, stale) if check else _write(files, stale)


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
    changes = []
    other = {path for path, data in files.items() if not _shows(path, data)}
    for path, data in files.items():
        if path in other or path.with_suffix(".svg") in other:  # a date alone hardly moves a pixel
            write_atomically(path, data)
            changes.append(f"wrote {path}")
    for path in stale:
        path.unlink()
        changes.append(f"deleted {path}")
    return changes


def _shows(path: Path, data: bytes) -> bool:
    return path.is_file() and same(path.suffix, path.read_bytes(), data)


def _differences(files: Mapping[Path, bytes], stale: list[Path]) -> list[str]:
    differences = [_difference(path, data) for path, data in files.items()]
    return [text for text in differences if text] + [
        f"{path}: stale, no record asks" for path in stale
    ]


def _difference(path: Path, data: bytes) -> str:
    old = path.read_bytes() if path.is_file() else None
    if old is None:
        return f"{path}: missing"
    if same(path.suffix, old, data):
        return ""
    if path.suffix not in TEXT:
        return f"{path}: differs"
    was, now = (text.decode("utf-8", "replace").splitlines(keepends=True) for text in (old, data))
    return "".join(difflib.unified_diff(was, now, str(path), f"{path} (regenerated)"))

"""All pages that are made at build, by their path in the site, and the order of all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.report import frame as frames
from bench.site import commands, strategy_pages
from bench.store import records
from bench.store.json_store import RESULTS

DOCS, README, INDEX = Path("docs"), Path("README.md"), "index.md"
MORE = "More"
"""The section of pages that the order does not name."""

Nav = list[Any]


def generated(root: Path) -> dict[str, str | bytes]:
    """Every page and picture that is not in ``docs/``: from code, from records, and copies.

    Args:
        root: of the repository.
    """
    results = root / RESULTS
    frame = frames.build(records.read_all(results))
    copied = [results / "README.md"]
    copied += [path for name in ("tables", "figures") for path in (results / name).iterdir()]
    return {
        INDEX: (root / README).read_text("utf-8"),
        commands.PATH: commands.page(),
        **strategy_pages.pages(frame),
        **{path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(copied)},
    }


def written(root: Path) -> list[str]:
    """Pages of ``docs/``, by their path in it."""
    folder = root / DOCS
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.md"))


def expanded(nav: Sequence[Any], pages: Iterable[str], own: Iterable[str]) -> Nav:
    """The order with every folder replaced by its pages, and what it does not name at the end.

    Args:
        nav: as in ``mkdocs.yml``; a path that ends in a slash is a folder.
        pages: all there are.
        own: those that must be in it.
    """
    every = sorted(pages)
    full = [_expanded(entry, every) for entry in nav]
    missing = sorted(set(own) - set(_paths(full)))
    return [*full, {MORE: missing}] if missing else full


def _expanded(entry: Any, pages: Sequence[str]) -> Any:
    if isinstance(entry, Mapping):
        return {title: _expanded(below, pages) for title, below in entry.items()}
    if isinstance(entry, list):
        return [one for below in entry for one in _flat(_expanded(below, pages))]
    if entry.endswith("/"):
        return [page for page in pages if page.startswith(entry) and page.endswith(".md")]
    return entry


def _flat(entry: Any) -> list[Any]:
    return entry if isinstance(entry, list) else [entry]


def _paths(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    below = nav.values() if isinstance(nav, Mapping) else nav
    return [path for entry in below for path in _paths(entry)]

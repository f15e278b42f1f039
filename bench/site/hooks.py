"""What mkdocs calls while it builds: more pages, their order, and links that lead to them."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from bench.site import links, pages, strategy_pages

ROOT = Path(__file__).parents[2]
_MADE: dict[str, str | bytes] = {}
_STRATEGY = re.compile(r"^\| `(\w+)` \|", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Make the pages, and put all of them in order."""
    _MADE.update(pages.generated(ROOT))
    written = pages.written(ROOT)
    config.nav = pages.expanded(config.nav or [], [*_MADE, *written], written)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    for path, content in _MADE.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Lead links of the repository to pages; in the table of strategies, each to its own."""
    path = page.file.src_uri
    if path == "strategies.md":
        folder = strategy_pages.FOLDER
        return _STRATEGY.sub(rf"| [`\1`]({folder}/\1.md) |", links.moved(markdown, path))
    is_generated = path.startswith(f"{strategy_pages.FOLDER}/")
    return markdown if is_generated else links.moved(markdown, path)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:  # noqa: ARG001
    """Hold that the site needs no network.

    Raises:
        PluginError: a page loads something from elsewhere.
    """
    loaded = links.foreign(output)
    if loaded:
        raise PluginError(f"{page.file.src_uri} loads from elsewhere: {', '.join(loaded)}")
    return output

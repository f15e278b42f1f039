"""Every command and flag, from the command line's own description."""

from __future__ import annotations

import typer
from typer.cli import get_docs_for_click

from bench.__main__ import app

PATH = "command-reference.md"
PROGRAM = "python -m bench"


def page() -> str:
    """The page, as Markdown."""
    group = typer.main.get_command(app)
    context = typer.Context(group)
    return get_docs_for_click(obj=group, ctx=context, name=PROGRAM, title="Every command")

"""``python -m bench.site [--check]``: make the committed pictures of ``docs/`` anew."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.site import pictures


def main(
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit 1 if stale.")
    ] = False,
) -> None:
    """Make the committed pictures of ``docs/`` anew."""
    lines = pictures.update(check=check)
    for line in lines:
        typer.echo(line)
    if check and lines:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)

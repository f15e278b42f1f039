"""``python -m bench merge``: results of several machines in one folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.store.json_store import RESULTS


def merge(
    sources: Annotated[list[Path], typer.Argument(help="Folders that hold raw/, as results does.")],
    into: Annotated[Path, typer.Option(help="The folder that they are merged into.")] = RESULTS,
) -> None:
    """Bring the records and studies of other folders into one; `tables` makes its tables then.

    Of two files of one cell and one kind of machine the newer stays. A file that cannot be read
    is refused, and nothing is merged.
    """
    from bench.store.json_store import check_writable
    from bench.sweeps import merging

    check_writable(into)
    done = merging.merge(sources, into)
    typer.echo(f"{into}: {done.new} files new, {done.newer} newer, {done.kept} as they were")

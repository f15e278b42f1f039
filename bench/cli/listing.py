"""``list``: what there is to choose from."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from bench.cli.flags import Format, FormatOption
from bench.cli.printing import print_rows


class Kind(enum.StrEnum):
    """What to list."""

    strategies = "strategies"
    workloads = "workloads"
    devices = "devices"
    models = "models"


def list_(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    output: FormatOption = Format.md,
) -> None:
    """List strategies, workloads, devices, or models of transformers that are shipped."""
    from bench.cli import catalogue

    rows = {
        Kind.strategies: catalogue.strategy_rows,
        Kind.workloads: catalogue.workload_rows,
        Kind.devices: catalogue.device_rows,
        Kind.models: catalogue.model_rows,
    }[kind]()
    print_rows(rows, output)

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
    peers = "peers"


def list_(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    output: FormatOption = Format.md,
) -> None:
    """List strategies, workloads, devices, shipped models, or other people's implementations."""
    from bench.cli import catalogue

    rows = {
        Kind.strategies: catalogue.strategy_rows,
        Kind.workloads: catalogue.workload_rows,
        Kind.devices: catalogue.device_rows,
        Kind.models: catalogue.model_rows,
        Kind.peers: catalogue.peer_rows,
    }[kind]()
    print_rows(rows, output)

"""Flags that several commands take, and what their values mean."""

from __future__ import annotations

import enum
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

Workload = Annotated[str, typer.Option(help="See `list workloads`.")]
Parameters = Annotated[
    list[str] | None, typer.Option("--set", help="Strategy parameter: k=4; may be repeated.")
]
Options = Annotated[
    list[str] | None, typer.Option("--option", help="Workload option: attention=flash.")
]
Layers = Annotated[int | None, typer.Option(help="Blocks.")]
Seq = Annotated[int | None, typer.Option(help="Sequence length.")]
Batch = Annotated[int | None, typer.Option(help="Batch size.")]
Dim = Annotated[int | None, typer.Option(help="Width.")]
Precision = Annotated[str, typer.Option(help="fp32, bf16, fp16, bf16-autocast, fp16-gradscaler.")]
Optimizer = Annotated[str, typer.Option(help="none, sgd, adamw.")]
Seed = Annotated[int, typer.Option(help="Of the step's random numbers.")]
Custom = Annotated[
    list[str] | None, typer.Option("--sim", help="Of --device sim:custom: memory_gb=48.")
]
Modelled = Annotated[
    bool, typer.Option("--modelled", help="Block times from a roofline instead of the clock.")
]


class Format(enum.StrEnum):
    """How to print rows."""

    md = "md"
    json = "json"
    csv = "csv"


class RunFormat(enum.StrEnum):
    """How to print what was run."""

    auto = "auto"
    table = "table"
    md = "md"
    json = "json"
    csv = "csv"


RunFormatOption = Annotated[
    RunFormat,
    typer.Option("--format", help="auto: a narrow table in a terminal, Markdown elsewhere."),
]
ResultsOption = Annotated[Path, typer.Option("--results", help="The folder that holds raw/.")]
FormatOption = Annotated[Format, typer.Option("--format", help="How to print.")]


def pairs(texts: Sequence[str] | None, flag: str) -> dict[str, Any]:
    """``["k=4"]`` as ``{"k": 4}``; what is no literal is text.

    Raises:
        ValueError: no equals sign.
    """
    values: dict[str, Any] = {}
    for text in texts or ():
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise ValueError(f"{flag} takes name=value, not {text!r}")
        try:
            values[name.strip()] = json.loads(value)
        except ValueError:
            values[name.strip()] = value.strip()
    return values


def workload_options(options: Sequence[str] | None, **sizes: int | None) -> dict[str, Any]:
    """Sizes that were given, and ``--option``."""
    given = {name: size for name, size in sizes.items() if size is not None}
    return given | pairs(options, "--option")


def device_name(device: str, custom: dict[str, Any]) -> str:
    """The device, with the figures of a custom one.

    Raises:
        ValueError: figures of another device.
    """
    if custom and device != "sim:custom":
        raise ValueError(f"--sim describes --device sim:custom, not {device!r}")
    figures = ", ".join(f"{name}={value!r}" for name, value in custom.items())
    return f"{device}({figures})" if custom else device

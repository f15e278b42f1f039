"""Flags that several commands take, and what their values mean."""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli import numbers

if TYPE_CHECKING:
    from bench.cells.cell import Cell

Workload = Annotated[
    str,
    typer.Option(
        "--workload",
        "--model",
        help="See `list workloads`; or a model: own.py:build, package.module:build, hf:gpt2,"
        " timm:vit_base_patch16_224, torchvision:resnet50.",
    ),
]
Ranks = Annotated[
    int | None, typer.Option(help="Processes that share the step; under torchrun, those it starts.")
]
ParallelOption = Annotated[
    str,
    typer.Option("--set-parallel", help="How they share it: fsdp2, ddp, fsdp2+tp=2 and others."),
]
Parameters = Annotated[
    list[str] | None, typer.Option("--set", help="Strategy parameter: k=4; may be repeated.")
]
Modelled = Annotated[
    bool, typer.Option("--modelled", help="Block times from a roofline instead of the clock.")
]


class Format(enum.StrEnum):
    """How to print rows."""

    md = "md"
    json = "json"
    csv = "csv"


class TextFormat(enum.StrEnum):
    """How to print sentences."""

    text = "text"
    json = "json"


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
MOST_TIMEOUT_S = 604_800.0
"""A week: what waits for longer waits for nothing, and the system's own clocks end soon after."""


def checked_timeout(timeout_s: float) -> float:
    """The seconds, if they are any.

    Raises:
        ValueError: none, or no number, or beyond a week.
    """
    if not 0 < timeout_s <= MOST_TIMEOUT_S:
        most = f"at most {MOST_TIMEOUT_S:.0f} seconds (a week)"
        raise ValueError(f"--timeout must be more than 0 and {most}, not {timeout_s:g}")
    return timeout_s


Timeout = Annotated[float, typer.Option(help="Seconds for one of them.", callback=checked_timeout)]
ResultsOption = Annotated[Path, typer.Option("--results", help="The folder that holds raw/.")]
FormatOption = Annotated[Format, typer.Option("--format", help="How to print.")]


def pairs(texts: Sequence[str] | None, flag: str) -> dict[str, Any]:
    """``["k=4"]`` as ``{"k": 4}``; what is no literal is text.

    Raises:
        ValueError: no equals sign, or a name twice.
    """
    values: dict[str, Any] = {}
    for text in texts or ():
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise ValueError(f"{flag} takes name=value, not {text!r}")
        if name.strip() in values:
            raise ValueError(f"{flag} gives {name.strip()} twice")
        values[name.strip()] = _literal(value)
    return values


def _literal(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text.strip()


FUNCTIONS = {"inputs": "batch", "criterion": "loss"}
"""Options that name a function, and the flags that do."""


def sizes_and_functions(texts: Sequence[str]) -> tuple[int | None, str | None]:
    """``["8", "own.py:batch"]`` as ``(8, "own.py:batch")``: how large batches are, what makes them.

    Raises:
        ValueError: two of a kind, or neither.
    """
    functions = [text for text in texts if ":" in text]
    sizes = [text for text in texts if ":" not in text]
    for kind in (functions, sizes):
        if len(kind) > 1:
            raise ValueError(f"--batch takes one of {', '.join(kind)}")
    for text in sizes:
        numbers.check_one("--batch", text)
        if not text.strip().lstrip("+-").isdecimal():
            raise ValueError(f"--batch takes a whole number or file.py:function, not {text!r}")
    return int(sizes[0]) if sizes else None, functions[0] if functions else None


def device_name(device: str, custom: Mapping[str, Any]) -> str:
    """The device, with the figures of a custom one; the accelerator, if none is named.

    Raises:
        ValueError: figures of another device.
    """
    if custom and device != "sim:custom":
        raise ValueError(f"--sim describes --device sim:custom, not {device!r}")
    from bench import devices

    figures = ", ".join(f"{name}={value!r}" for name, value in custom.items())
    return f"{device}({figures})" if custom else device or devices.default()


@dataclasses.dataclass(frozen=True)
class Setup:
    """How a workload is set up: the flags of every command that builds cells."""

    options: Annotated[
        list[str] | None, typer.Option("--option", help="Workload option: attention=flash.")
    ] = None
    layers: Annotated[int | None, typer.Option(help="Blocks.")] = None
    seq: Annotated[int | None, typer.Option(help="Sequence length.")] = None
    batch: Annotated[
        list[str] | None,
        typer.Option(
            help="Batch size; and, once more if need be, the function that makes the batch of a"
            " --model: own.py:batch."
        ),
    ] = None
    loss: Annotated[
        str | None, typer.Option(help="Function that makes the loss of a --model: own.py:loss.")
    ] = None
    blocks: Annotated[
        str | None, typer.Option(help="Container of the blocks of a --model: encoder.layers.")
    ] = None
    dim: Annotated[int | None, typer.Option(help="Width.")] = None
    precision: Annotated[
        list[str] | None,
        typer.Option(
            help="Of numbers: fp32, bf16, fp16, bf16-autocast, fp16-gradscaler, bf16-master and"
            " fp16-master (fp32 weights for the optimizer); and, once more if need be, of timed"
            " steps: 2% for rounds until the interval is no wider than that."
        ),
    ] = None
    optimizer: Annotated[
        str,
        typer.Option(help="none, sgd, adamw; -fused at the end: in one kernel; -8bit: simulated."),
    ] = "none"
    seed: Annotated[int, typer.Option(help="Of the step's random numbers.")] = 0
    custom: Annotated[
        list[str] | None, typer.Option("--sim", help="Of --device sim:custom: memory_gb=48.")
    ] = None

    def cell(
        self,
        workload: str,
        device: str,
        spec: str = "none",
        defaults: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Cell:
        """The cell that the flags name, checked.

        Args:
            workload: its name.
            device: its name; empty for the accelerator.
            spec: of the strategy.
            defaults: options of the workload, where no flag says otherwise.
            fields: of `bench.cells.cell.Cell`.

        Raises:
            ValueError: an unknown or impossible part; says what is valid.
        """
        from bench.cells.cell import Cell, checked

        flags, more = self._options(), pairs(self.options, "--option")
        for name in flags.keys() & more.keys():
            flag = FUNCTIONS.get(name, name)
            raise ValueError(f"{name} is given twice: by --{flag} and by --option")
        options = {**(defaults or {}), **flags, **more}
        number_format, width = numbers.precisions(self.precision or ())
        if width is None:
            fields.pop("rounds_limit_s", None)
        cell = Cell(
            workload=workload,
            options=options,
            spec=spec,
            device=device_name(device, pairs(self.custom, "--sim")),
            precision=number_format,
            interval_width=width,
            optimizer=self.optimizer,
            seed=self.seed,
            **fields,
        )
        return checked(cell)

    def has(self, option: str) -> bool:
        """Whether an option of the workload is given, be it with its default."""
        return option in {**self._options(), **pairs(self.options, "--option")}

    def _options(self) -> dict[str, Any]:
        """What the flags say about the workload, by its options' names."""
        batch, inputs = sizes_and_functions(self.batch or ())
        sizes = {"layers": self.layers, "seq": self.seq, "batch": batch, "dim": self.dim}
        flags = {**sizes, "inputs": inputs, "criterion": self.loss, "blocks": self.blocks}
        return {name: value for name, value in flags.items() if value is not None}


def with_setup(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameter ``setup`` is given as the flags of `Setup`."""
    setup = inspect.signature(Setup, eval_str=True).parameters
    own = inspect.signature(command, eval_str=True).parameters

    @functools.wraps(command)
    def call(**arguments: Any) -> None:
        command(setup=Setup(**{name: arguments.pop(name) for name in setup}), **arguments)

    flags = {**own, **setup}
    del flags["setup"]
    keywords = [flag.replace(kind=inspect.Parameter.KEYWORD_ONLY) for flag in flags.values()]
    call.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    call.__annotations__ = {flag.name: flag.annotation for flag in keywords}
    return call


def with_default(**defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorates a command that has other defaults of some flags than all others."""

    def changed(command: Callable[..., None]) -> Callable[..., None]:
        known = inspect.signature(command).parameters.values()
        flags = [flag.replace(default=defaults.get(flag.name, flag.default)) for flag in known]
        command.__signature__ = inspect.Signature(flags)  # type: ignore[attr-defined]
        return command

    return changed

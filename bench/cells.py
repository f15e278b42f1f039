"""A cell: workload × strategy × device, and how to measure it. Plain data, JSON both ways."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import torch

import strategies
from bench import devices, machine, workloads
from bench.training import OPTIMIZERS, PRECISIONS
from bench.workloads.base import Workload


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement to make.

    Attributes:
        workload: its name.
        options: the workload's options that differ from its defaults.
        spec: the strategy's specification.
        device: ``cpu``, ``cuda`` …
        precision: see `bench.training.PRECISIONS`.
        optimizer: see `bench.training.OPTIMIZERS`.
        rounds: timed rounds; 0 measures no time.
        warmup: untimed rounds before.
        seed: of the step's random numbers.
        threads: PyTorch's intra-op threads.
        memory_limit_bytes: of the process's data on a CPU; ``None`` for no limit.
    """

    workload: str
    options: dict[str, Any] = {}
    spec: str
    device: str = "cpu"
    precision: str = "fp32"
    optimizer: str = "none"
    rounds: int = 5
    warmup: int = 1
    seed: int = 0
    threads: int = 0
    memory_limit_bytes: int | None = None

    def make_workload(self) -> Workload:
        """The workload with its options."""
        return workloads.get(self.workload, **self.options)

    def make_strategy(self) -> strategies.Strategy:
        """The strategy with its parameters."""
        return strategies.get(self.spec)

    def cell_id(self) -> str:
        """Twelve hex digits over all that decides the measurement, code and torch included."""
        strategy = self.make_strategy()
        decisive = {
            **msgspec.to_builtins(self),
            "options": self.make_workload().options(),
            "spec": strategy.spec(),
            "torch": str(torch.__version__),
            "code": machine.code_hash(strategy),
            "machine": machine.machine_id(),
        }
        text = msgspec.json.encode(decisive, order="sorted")
        return hashlib.sha256(text).hexdigest()[:12]


def with_parameters(specs: Sequence[str], parameters: Mapping[str, Any]) -> list[str]:
    """Each specification with those of the parameters that its strategy has.

    Raises:
        ValueError: a parameter that none of them has, or an impossible value.
    """
    known = [{f.name for f in dataclasses.fields(strategies.get(spec))} for spec in specs]
    for name in parameters:
        if not any(name in names for names in known):
            strategies.get(specs[0], **{name: parameters[name]})  # raises, and says what is valid
    return [
        strategies.get(spec, **{k: v for k, v in parameters.items() if k in names}).spec()
        for spec, names in zip(specs, known, strict=True)
    ]


def checked(cell: Cell) -> Cell:
    """The cell with its workload options, strategy and device checked, and threads filled in.

    Raises:
        ValueError: one of them is unknown or impossible; says what is valid.
    """
    workload = cell.make_workload()
    spec = cell.make_strategy().spec()
    device = devices.get(cell.device)
    _check("precision", cell.precision, PRECISIONS)
    _check("optimizer", cell.optimizer, OPTIMIZERS)
    if cell.precision == "fp16-gradscaler" and device.type == "cpu":
        raise ValueError("fp16-gradscaler needs an accelerator; on cpu use fp32 or bf16-autocast")
    for name in ("rounds", "warmup", "threads"):
        if getattr(cell, name) < 0:
            raise ValueError(f"{name} must be at least 0, not {getattr(cell, name)}")
    defaults = workloads.get(cell.workload).options()
    options = {k: v for k, v in workload.options().items() if v != defaults[k]}
    threads = cell.threads or torch.get_num_threads()
    return msgspec.structs.replace(cell, options=options, spec=spec, threads=threads)


def _check(what: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise ValueError(f"{what} must be one of {', '.join(valid)}, not {value!r}")

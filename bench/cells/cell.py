"""A cell: workload × strategy × device, and how to measure it. Plain data, JSON both ways."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import torch

import strategies
from bench import devices, workloads
from bench.cells import ROUNDS, machine, sources
from bench.cells.optimizers import EIGHT_BIT, OPTIMIZERS
from bench.cells.training import MASTERED, PRECISIONS, SCALED
from bench.devices import accelerators
from bench.workloads.base import Workload

SIMULATED = "sim:"
_LARGEST = 2**63 - 1


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement to make.

    Attributes:
        workload: its name.
        options: the workload's options that differ from its defaults.
        spec: the strategy's specification.
        device: ``cpu``, ``cuda`` …
        precision: see `bench.cells.training.PRECISIONS`.
        optimizer: see `bench.cells.optimizers.OPTIMIZERS`.
        rounds: timed rounds; 0 measures no time. An odd number is raised by one, so that of the two
            contenders each comes first equally often.
        warmup: untimed rounds before.
        seed: of the step's random numbers.
        threads: PyTorch's intra-op threads.
        memory_limit_bytes: of the process's data on a CPU; ``None`` for no limit.
        interval_width: more rounds follow until the interval of the step ratio is no wider than
            this part of it; ``None``: none do.
        rounds_limit_s: seconds that all rounds together may take with those; ``None``: no limit.
        ranks: processes that share the step.
        parallel: how (`bench.ranks.parallel`); empty for one.
    """

    workload: str
    options: dict[str, Any] = {}
    spec: str
    device: str = "cpu"
    precision: str = "fp32"
    optimizer: str = "none"
    rounds: int = ROUNDS
    warmup: int = 1
    seed: int = 0
    threads: int = 0
    memory_limit_bytes: int | None = None
    interval_width: float | None = None
    rounds_limit_s: float | None = None
    ranks: int = 1
    parallel: str = ""

    @property
    def simulated(self) -> bool:
        """Whether the device is modelled."""
        return self.device.startswith(SIMULATED)

    @property
    def machine_id(self) -> str:
        """Where the record belongs: what is modelled is the same on every machine."""
        return "simulated" if self.simulated else machine.machine_id()

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
            "code": self.code_hash(),
            "machine": self.machine_id,
        }
        text = msgspec.json.encode(decisive, order="sorted")
        return hashlib.sha256(text).hexdigest()[:12]

    def code_hash(self) -> str:
        """Of all code that decides it."""
        entry = sources.RANKS_ENTRY if self.parallel else sources.ENTRY
        if self.parallel and self.simulated:
            entry = sources.SIMULATED_RANKS_ENTRY
        return sources.code_hash(self.make_strategy(), self.make_workload(), entry)


def with_parameters(specs: Sequence[str], parameters: Mapping[str, Any]) -> list[str]:
    """Each specification with those of the parameters that its strategy has.

    Raises:
        ValueError: a parameter that none of them has, or an impossible value.
    """
    fields = [{f.name for f in dataclasses.fields(strategies.get(spec))} for spec in specs]
    for name in parameters:
        if not any(name in names for names in fields):
            strategies.get(specs[0], **{name: parameters[name]})  # raises, and says what is valid
    return [
        strategies.get(spec, **{k: v for k, v in parameters.items() if k in names}).spec()
        for spec, names in zip(specs, fields, strict=True)
    ]


def checked(cell: Cell) -> Cell:
    """The cell with its workload options, strategy and device checked, and threads filled in.

    Raises:
        ValueError: one of them is unknown or impossible; says what is valid.
    """
    workload = cell.make_workload()
    spec = cell.make_strategy().spec()
    _check("precision", cell.precision, PRECISIONS)
    _check("optimizer", cell.optimizer, OPTIMIZERS)
    _check_update(cell)
    device = _checked_device(cell)
    for name, least in {"rounds": 0, "warmup": 0, "threads": 0, "ranks": 1}.items():
        if getattr(cell, name) < least:
            raise ValueError(f"{name} must be at least {least}, not {getattr(cell, name)}")
    _check_memory_limit(cell)
    _check_numbers(msgspec.to_builtins(cell))
    _check_numbers(workload.options())
    _check_interval(cell)
    defaults = workloads.get(cell.workload).options()
    options = {k: v for k, v in workload.options().items() if v != defaults.get(k)}
    rounds = cell.rounds + cell.rounds % 2
    decided = {"workload": workload.name, "spec": spec, "device": device, "rounds": rounds}
    cell = msgspec.structs.replace(cell, options=options, **decided)
    if cell.simulated:  # what is modelled depends on no thread, and has no rounds
        return msgspec.structs.replace(cell, threads=1, rounds=0, warmup=0)
    threads = cell.threads or max(1, torch.get_num_threads() // cell.ranks)
    return msgspec.structs.replace(cell, threads=threads)


def _checked_device(cell: Cell) -> str:
    """The device's name in full."""
    if cell.simulated:
        return accelerators.get(cell.device).spec_text
    device = devices.get(cell.device)
    if cell.precision == "fp16-gradscaler" and device.type == "cpu":
        raise ValueError("fp16-gradscaler needs an accelerator; on cpu use fp32 or bf16-autocast")
    return cell.device


def _check_update(cell: Cell) -> None:
    """Whether there is such a step of optimizer and precision."""
    if cell.precision in MASTERED and cell.optimizer == "none":
        raise ValueError(f"{cell.precision} keeps fp32 weights for an optimizer: name one")
    if cell.optimizer.endswith(EIGHT_BIT) and not cell.simulated:
        raise ValueError(
            f"of {cell.optimizer} the memory is modelled, not the values: its device must be"
            f" {SIMULATED}NAME"
        )
    scaled = cell.precision in SCALED and cell.simulated
    if cell.parallel and (cell.precision in MASTERED or scaled):
        raise ValueError(f"{cell.precision} is of one rank; fsdp2(mixed=true) keeps fp32 weights")


def _check_memory_limit(cell: Cell) -> None:
    if cell.memory_limit_bytes is None:
        return
    if cell.memory_limit_bytes < 0:
        raise ValueError(f"the memory limit must be at least 0, not {cell.memory_limit_bytes}")
    if cell.device != "cpu":
        raise ValueError(f"only a cpu cell takes a memory limit, not one on {cell.device}")


def _check_numbers(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise ValueError(f"{name} must be within 64 bits, not {str(value)[:40]}")
    if values["seed"] < 0:
        raise ValueError(f"seed must be at least 0, not {values['seed']}")


def _check_interval(cell: Cell) -> None:
    if cell.interval_width is None:
        return
    if not 0 < cell.interval_width <= 1:
        raise ValueError(
            "an interval may be asked to be above 0 % and at most 100 % wide, not "
            f"{100 * cell.interval_width:g} %"
        )
    if cell.simulated or not cell.rounds:
        raise ValueError("there is no interval to narrow where no rounds are timed")


def _check(what: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise ValueError(f"{what} must be one of {', '.join(valid)}, not {value!r}")

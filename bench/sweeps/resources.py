"""What is asked of Slurm for a job, as submitit's parameters."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bench.cells.cell import Cell
from bench.sweeps.division import Part

_NAME = re.compile(r"[a-z][a-z-]*")


@dataclasses.dataclass(frozen=True)
class Resources:
    """Of one job.

    Attributes:
        minutes: until it is put into the queue again; 0: what its cells may take at most.
        memory_gb: in 10⁹ bytes, as Slurm counts.
        cores: processor cores.
        gres: accelerators, in Slurm's words: ``gpu:1``; empty: none.
        more: any other flags of ``sbatch``: ``{"partition": "gpu"}``.

    Raises:
        ValueError: one of them is impossible.
    """

    minutes: int = 0
    memory_gb: float = 16.0
    cores: int = 2
    gres: str = ""
    more: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.minutes < 0 or self.cores < 1 or not 0 < self.memory_gb < math.inf:
            raise ValueError(
                "a job needs at least 0 minutes, 1 core and more than 0 GB, not "
                f"{self.minutes} minutes, {self.cores} cores and {self.memory_gb:g} GB"
            )
        for name, value in {**self.more, "gres": self.gres}.items():
            if not _NAME.fullmatch(name) or not value.isprintable():
                raise ValueError(f"{name!r} with {value!r} is no flag of sbatch")


def minutes_of(jobs: Sequence[Sequence[Cell]], timeout_s: float, given: int = 0) -> int:
    """Minutes that the longest job may take, if none are given."""
    return given or math.ceil(max(map(len, jobs)) * timeout_s / 60) + 1


def slurm(part: Part, resources: Resources, minutes: int) -> dict[str, Any]:
    """The parameters of a job of ``part``.

    Timed cells have the machine for themselves. A job is put into the queue again when its time is
    over or its machine fails: it goes on where it was.
    """
    parameters: dict[str, Any] = {
        "name": f"ckpt-bench-{part}",
        "timeout_min": minutes,
        "mem_gb": resources.memory_gb,
        "cpus_per_task": resources.cores,
        "slurm_additional_parameters": {"requeue": True, **resources.more},
    }
    if part is Part.timed:
        parameters["slurm_exclusive"] = True
    if part is not Part.simulated and resources.gres:
        parameters["slurm_gres"] = resources.gres
    return parameters

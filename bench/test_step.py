"""Step time through pytest-benchmark, on the harness's own cells.

    pytest --benchmark-only                 # time every strategy
    pytest --benchmark-compare              # and compare with the last saved run

Memory, FLOPs and gradients come from the harness, in a process of their own, and are in
``extra_info``. Here the rounds of one strategy follow each other; for a ratio of two strategies
trust `python -m bench run`, which interleaves them.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

import strategies
from bench import devices
from bench.cells.cell import Cell, checked
from bench.cells.training import TrainingStep
from bench.measure.time import synchronize
from bench.run import executor
from bench.run.sweep import every_spec
from bench.store.records import Record

EXTRA = (
    "status",
    "plan",
    "storage",
    "attention_kernel",
    "peak_allocated_bytes",
    "saved_after_forward_bytes",
    "forward_flops",
    "step_flops",
    "recompute_flops",
    "block_forwards",
    "grads_bitwise_equal",
    "grad_max_rel_err",
    "workload_options",
    "cell_id",
)


@pytest.fixture(scope="session")
def template(request: pytest.FixtureRequest) -> Cell:
    """The cell that all benchmarks share but for the strategy."""
    option = request.config.getoption
    device = option("device") or devices.default()
    try:
        return checked(Cell(workload=option("workload"), spec="none", device=device, rounds=0))
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error


@pytest.fixture(scope="session")
def step(template: Cell) -> TrainingStep:
    """One model for all strategies: applied and undone around each."""
    device = torch.device(template.device)
    torch.set_num_threads(template.threads)
    return TrainingStep.build(template.make_workload(), device)


@pytest.mark.parametrize("spec", every_spec())
def test_step(
    spec: str,
    template: Cell,
    step: TrainingStep,
    benchmark: Any,
    request: pytest.FixtureRequest,
) -> None:
    """One training step under one strategy."""
    record = executor.run(checked(Cell(**_fields(template) | {"spec": spec})))
    _explain(record)
    benchmark.group = f"{template.workload} on {template.device}"
    benchmark.extra_info.update({name: getattr(record, name) for name in EXTRA})
    prepared = strategies.prepare(step.model, spec, step=step, blocks=step.workload.blocks)
    with prepared.apply():
        benchmark.pedantic(
            functools.partial(_run, step),
            rounds=request.config.getoption("rounds"),
            warmup_rounds=1,
        )
    step.drop_gradients()


def _fields(cell: Cell) -> dict[str, Any]:
    return {name: getattr(cell, name) for name in cell.__struct_fields__}


def _explain(record: Record) -> None:
    if record.status == "unsupported":
        pytest.skip(record.reason or "unsupported")
    assert record.status == "ok", record.reason


def _run(step: TrainingStep) -> None:
    step()
    synchronize(step.device)

"""On an accelerator, where there is one: every strategy, precision and storage by the same gate.

Nothing here runs without one. `nox -s validate` compares bytes there.
"""

import functools

import pytest
import torch

import strategies
from bench import devices
from bench.cells.cell import Cell, checked
from bench.run import sweep, worker
from bench.studies import validation

pytestmark = [
    pytest.mark.skipif(not torch.accelerator.is_available(), reason="no accelerator here"),
    pytest.mark.long,
]

WORKLOADS = {"gpt-mini-dropout": {}, "llama-mini": {}, "resnet-mini": {"batch": 64}}
OFFLOADED = {
    "offload": "every_layer",
    "offload(tier=disk)": "every_layer",
    "offload(over=sqrt)": "sqrt",
    "compressed(codec=int8, over=offload)": "every_layer",
}
PRECISIONS = ("bf16", "bf16-autocast", "fp16-gradscaler")


@functools.cache
def measured(workload, spec, precision="fp32", optimizer="none"):
    cell = Cell(
        workload=workload,
        options=WORKLOADS.get(workload, {}),
        spec=spec,
        device=devices.default(),
        precision=precision,
        optimizer=optimizer,
        rounds=0,
    )
    return worker.measure(checked(cell))


@pytest.mark.parametrize("spec", sweep.every_spec())
@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_strategy_gives_the_gradient_that_it_promises(workload, spec):
    try:
        record = measured(workload, spec)
    except strategies.Unsupported as refusal:
        pytest.skip(str(refusal))
    assert record.status == "ok", record.reason
    assert record.peak_allocated_bytes > 0


@pytest.mark.parametrize(
    "spec", [*OFFLOADED, "hybrid(budget='90%')", "every_layer", "auto(budget='90%')"]
)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision(spec, precision):
    record = measured("gpt-mini-dropout", spec, precision, "adamw")
    assert record.status == "ok", record.reason


@pytest.mark.parametrize(("spec", "over"), OFFLOADED.items())
def test_what_rests_elsewhere_is_not_on_the_device(spec, over):
    kept_bytes = measured("gpt-mini-dropout", over).saved_after_forward_bytes
    assert measured("gpt-mini-dropout", spec).saved_after_forward_bytes < kept_bytes


@pytest.mark.parametrize("budget", ["40%", "60%", "80%"])
@pytest.mark.parametrize("name", ["auto", "optimal", "selective_ops", "hybrid"])
def test_a_budget_holds(name, budget):
    record = measured("gpt-mini", f"{name}(budget='{budget}')")
    assert record.status == "ok", record.reason
    plain_bytes = measured("gpt-mini", "none").peak_allocated_bytes
    assert record.peak_allocated_bytes <= float(budget[:-1]) / 100 * plain_bytes


@pytest.mark.parametrize("workload", validation.WORKLOADS)
@pytest.mark.parametrize("spec", ["none", "every_layer", "offload", "sqrt"])
def test_the_simulation_is_what_the_allocator_counts(workload, spec):
    """Convolutions aside, whose workspaces are cuDNN's own."""
    cell = Cell(workload=workload, spec=spec, device=devices.default(), rounds=0)
    row = validation.compare(checked(cell))
    assert abs(row.allocator_error) <= (0.05 if workload.startswith("resnet") else 1e-3)
